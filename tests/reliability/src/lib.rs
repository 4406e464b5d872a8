//! What the tools of this crate share: a real eeveed to torment, a session made of frames, a place on a real disk, and
//! words for what was measured.
//!
//! The tools speak the wire themselves where every frame has to be seen: the client library hides redeliveries and
//! repetitions from its user, and it is one of the things under test.

pub mod eeveed;
pub mod ground;
pub mod numbers;
pub mod session;

pub use self::eeveed::Eeveed;
pub use self::ground::Ground;
pub use self::session::Session;
