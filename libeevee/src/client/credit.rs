//! The sum of what may be published, counted exactly as the bus counts it.

/// What may be published before the bus grants more. The bus lets a document overdraw the bytes once, as nobody can
/// publish half of it, and counts what it overdraws for nothing; this is the same sum.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Credit {
    messages: u64,
    /// Below zero after a document that was larger than what was left, exactly as the bus counts it: a client that
    /// forgave itself the rest would overdraw later and be cut off.
    bytes: i64,
}

impl Credit {
    pub(super) fn new(messages: u64, bytes: u64) -> Self {
        let mut credit = Self { messages: 0, bytes: 0 };
        credit.add(messages, bytes);
        credit
    }

    pub(super) const fn any(self) -> bool {
        self.messages > 0 && self.bytes > 0
    }

    pub(super) const fn take(&mut self, bytes: u64) {
        self.messages -= 1;
        self.bytes = self.bytes.saturating_sub_unsigned(bytes);
    }

    pub(super) const fn add(&mut self, messages: u64, bytes: u64) {
        self.messages = self.messages.saturating_add(messages);
        self.bytes = self.bytes.saturating_add_unsigned(bytes);
    }
}
