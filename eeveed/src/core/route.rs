//! Where a message goes: the subscriptions that it is for. Most messages are for one, and many share a list with the memo.

use std::rc::Rc;

use super::index::Slot;

#[derive(Debug, Clone, Default)]
pub(super) enum Route {
    #[default]
    Nowhere,
    /// May-publish forbids it.
    Denied,
    /// One live subscription.
    One([Slot; 1]),
    Many(Rc<Lists>),
}

#[derive(Debug)]
pub(super) struct Lists {
    live: Box<[Slot]>,
    durable: Box<[Slot]>,
}

impl Route {
    pub(super) fn to(live: &[Slot], durable: &[Slot]) -> Self {
        match (live, durable) {
            ([], []) => Self::Nowhere,
            ([one], []) => Self::One([*one]),
            _ => Self::Many(Rc::new(Lists { live: live.into(), durable: durable.into() })),
        }
    }

    pub(super) const fn is_denied(&self) -> bool {
        matches!(self, Self::Denied)
    }

    pub(super) const fn is_empty(&self) -> bool {
        matches!(self, Self::Nowhere | Self::Denied)
    }

    /// Whether it goes nowhere but to live subscriptions.
    #[inline]
    pub(super) fn is_plain(&self) -> bool {
        !self.is_denied() && self.durable().is_empty()
    }

    #[inline]
    pub(super) fn live(&self) -> &[Slot] {
        match self {
            Self::Nowhere | Self::Denied => &[],
            Self::One(slot) => slot,
            Self::Many(lists) => &lists.live,
        }
    }

    #[inline]
    pub(super) fn durable(&self) -> &[Slot] {
        match self {
            Self::Many(lists) => &lists.durable,
            _ => &[],
        }
    }

    /// How many bytes it has beside itself.
    pub(super) fn list_bytes(&self) -> usize {
        match self {
            Self::Many(lists) => size_of::<Lists>() + 64 + (lists.live.len() + lists.durable.len()) * size_of::<Slot>(),
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_any_length() {
        for live in 0..4_u32 {
            for durable in 0..3_u32 {
                let (live, durable) = ((0..live).collect::<Vec<_>>(), (9..9 + durable).collect::<Vec<_>>());
                let route = Route::to(&live, &durable);
                assert_eq!((route.live(), route.durable()), (&*live, &*durable));
                assert_eq!(route.is_empty(), live.is_empty() && durable.is_empty());
            }
        }
    }

    #[test]
    fn two_fit_half_a_cache_line() {
        assert_eq!(size_of::<Route>(), 16);
    }
}
