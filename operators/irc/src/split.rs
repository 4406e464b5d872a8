//! Cutting a text into pieces that fit into lines.

use crate::line::floor_boundary;

/// Even a server with absurd names leaves this much for text.
const ROOM_BYTES_MIN: usize = 64;

/// The lines of a text, each cut into pieces of at most `room` bytes: after a space where there is one in the second
/// half of the piece, else between characters. Empty lines are left out, because IRC cannot say nothing.
///
/// NUL, and the `\x01` that would make a text a CTCP request, are left out too.
pub(crate) fn split(text: &str, room: usize) -> Vec<String> {
    let room = room.max(ROOM_BYTES_MIN);
    let mut pieces = Vec::new();
    for line in text.split(['\r', '\n']) {
        let line: String = line.chars().filter(|c| !matches!(c, '\0' | '\x01')).collect();
        if line.trim().is_empty() {
            continue;
        }
        let mut rest = line.as_str();
        while rest.len() > room {
            let (piece, after) = rest.split_at(cut_at(rest, room));
            pieces.push(piece.to_owned());
            rest = after;
        }
        if !rest.trim().is_empty() {
            pieces.push(rest.to_owned());
        }
    }
    pieces
}

fn cut_at(text: &str, room: usize) -> usize {
    let hard = floor_boundary(text, room);
    match text[..hard].rfind(' ') {
        Some(space) if space + 1 > hard / 2 => space + 1,
        _ => hard,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn table() {
        for (text, expected) in [
            ("hello", vec!["hello"]),
            ("a\nb\r\nc\rd", vec!["a", "b", "c", "d"]),
            ("\n\n a \n   \n", vec![" a "]),
            ("", vec![]),
            ("\r\nQUIT :x", vec!["QUIT :x"]),
            ("\x01DCC SEND x\x01", vec!["DCC SEND x"]),
            ("\x02bold\x02 \x0304red", vec!["\x02bold\x02 \x0304red"]),
        ] {
            assert_eq!(split(text, 400), expected, "{text:?}");
        }
    }

    #[test]
    fn words_stay_whole_where_possible() {
        let text = format!("{} {}", "a".repeat(60), "b".repeat(60));
        assert_eq!(split(&text, 100), ["a".repeat(60) + " ", "b".repeat(60)]);
        let snow = "☃".repeat(50);
        let pieces = split(&snow, 100);
        assert_eq!(pieces.concat(), snow);
        assert_eq!(pieces[0].len(), 99, "three bytes each, never cut inside");
    }

    proptest! {
        #[test]
        fn no_piece_is_too_long_and_nothing_is_lost(text in "[a-z ☃ü]{0,700}", room in 64_usize..500) {
            let pieces = split(&text, room);
            for piece in &pieces {
                prop_assert!(piece.len() <= room);
                prop_assert!(!piece.trim().is_empty());
            }
            let spaces_aside = |text: &str| text.replace(' ', "");
            prop_assert_eq!(spaces_aside(&pieces.concat()), spaces_aside(&text));
        }

        #[test]
        fn of_words_nothing_at_all_is_lost(text in "[a-zü☃]{1,30}( [a-zü☃]{1,30}){0,40}", room in 64_usize..500) {
            prop_assert_eq!(split(&text, room).concat(), text);
        }

        #[test]
        fn any_text_gives_single_lines(text in any::<String>(), room in 0_usize..500) {
            for piece in split(&text, room) {
                prop_assert!(!piece.contains(['\r', '\n', '\0', '\x01']));
                prop_assert!(piece.len() <= room.max(ROOM_BYTES_MIN));
            }
        }
    }
}
