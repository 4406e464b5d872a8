# Tries to get the token of operator irc in every way that there is. One line for each way, beginning with
# "got", "empty" or "refused". Argument: the pid of irc.
import socket
import sys

pid = sys.argv[1]
credential = "/run/credentials/eevee-op@irc.service/bus-token"
for path in [credential, "/proc/%s/root%s" % (pid, credential), "/var/lib/eevee/identity.key"]:
    try:
        with open(path) as file:
            print("got", path, file.read().strip())
    except OSError as error:
        print("refused", path, error)

# The second address is the one that PID 1 has when it fetches irc's token. Anybody may bind it.
for address in ["", "\0deadbeef/unit/eevee-op@irc.service/bus-token"]:
    peer = socket.socket(socket.AF_UNIX)
    peer.settimeout(20)
    try:
        if address:
            peer.bind(address)
        peer.connect("/run/eevee/identity.sock")
        answer = peer.recv(4096)
        print("got" if answer else "empty", repr(address), answer)
    except OSError as error:
        print("refused", repr(address), error)
