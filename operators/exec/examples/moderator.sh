#!/bin/sh
# A moderator: warns who says a word of the list, and writes each case down. It misses nothing that was said while it was
# stopped: it runs once for each message, with durable delivery, and a message comes again until it ends with 0.
#
#     kind = "exec"
#     [settings]
#     run = ["/usr/local/lib/eevee/moderator.sh", "spam", "casino"]
#     subscribe = ["type=chat.message,direction=in,!bot"]
#     durable = true
#     parallel = 1
set -eu

cases="${STATE_DIRECTORY:-.}/cases"
text=$(tr '[:upper:]' '[:lower:]')

for word; do
    case " $text " in
        *" $word "*)
            # The same message may come twice, and counts once.
            if ! grep -qsx "$EEVEE_MESSAGE $EEVEE_USER $word" "$cases"; then
                echo "$EEVEE_MESSAGE $EEVEE_USER $word" >>"$cases"
            fi
            count=$(cut -d ' ' -f 2 "$cases" | grep -cFx -- "$EEVEE_USER")
            echo "$EEVEE_USER: please do not say \"$word\" here (warning $count)"
            exit 0
            ;;
    esac
done
