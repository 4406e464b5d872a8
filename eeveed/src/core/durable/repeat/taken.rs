//! Which sequences of one epoch were taken: the highest, and the holes below it.

/// Holes below the highest sequence. Beyond it the two oldest become one with all between them: then something may come
/// twice, which is the lesser evil.
const HOLES_MAX: usize = 64;

/// Which sequences of an epoch were taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) high: u64,
    /// The message id of the highest; 0 when it is not known.
    pub(super) last_id: u64,
    /// Below `high`, not taken; ascending, inclusive. The first is what lies below the first one that was taken.
    holes: Vec<(u64, u64)>,
    /// Above `high`, refused.
    refused: Option<(u64, u64)>,
}

impl Taken {
    /// Nothing was taken yet; no message has id 0.
    const fn is_new(&self) -> bool {
        self.last_id == 0 && self.high == 0
    }

    pub(super) fn contains(&self, sequence: u64) -> bool {
        !self.is_new()
            && sequence <= self.high
            && !self.holes.iter().any(|(first, last)| (*first..=*last).contains(&sequence))
    }

    pub(super) fn take(&mut self, sequence: u64, id: u64) {
        if self.is_new() {
            // What was refused before the first one was taken may come again, and nobody remembers it.
            if let Some(before) = sequence.checked_sub(1) {
                self.holes.push((0, before));
            }
            self.refused =
                self.refused.filter(|(_, last)| *last > sequence).map(|(first, last)| (first.max(sequence + 1), last));
            (self.high, self.last_id) = (sequence, id);
            return;
        }
        if sequence > self.high {
            match self.refused.take() {
                Some((first, last)) if first < sequence => {
                    self.dig(first, last.min(sequence - 1));
                    if last > sequence {
                        self.refused = Some((sequence + 1, last));
                    }
                }
                // A retry of the first one that was refused: the others still are.
                Some((first, last)) if last > sequence => self.refused = Some((first.max(sequence + 1), last)),
                _ => {}
            }
            (self.high, self.last_id) = (sequence, id);
            return;
        }
        let Some(at) = self.holes.iter().position(|(first, last)| (*first..=*last).contains(&sequence)) else { return };
        let (first, last) = self.holes.remove(at);
        if sequence < last {
            self.holes.insert(at, (sequence + 1, last));
        }
        if first < sequence {
            self.holes.insert(at, (first, sequence - 1));
        }
    }

    pub(super) fn refuse(&mut self, sequence: u64) {
        if sequence > self.high || self.is_new() {
            let (first, last) = self.refused.unwrap_or((sequence, sequence));
            self.refused = Some((first.min(sequence), last.max(sequence)));
        }
    }

    fn dig(&mut self, first: u64, last: u64) {
        self.holes.push((first, last));
        if self.holes.len() > HOLES_MAX {
            let (_, end) = self.holes.remove(1);
            self.holes[0].1 = end;
        }
    }

    /// As it stands on disk: the highest, its id, then the holes, and above it what was refused.
    pub(super) fn print(&self) -> String {
        let mut text = format!("{} {}", self.high, self.last_id);
        for (first, last) in self.holes.iter().chain(&self.refused) {
            text.push_str(&format!(" {first}-{last}"));
        }
        text
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let (high, last_id) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let hole = |word: &str| {
            let (first, last) = word.split_once('-')?;
            Some((first.parse().ok()?, last.parse().ok()?))
        };
        let (holes, refused): (Vec<_>, Vec<_>) =
            words.map(hole).collect::<Option<Vec<(u64, u64)>>>()?.into_iter().partition(|(_, last)| *last < high);
        Some(Self { high, last_id, holes, refused: refused.first().copied() })
    }
}
