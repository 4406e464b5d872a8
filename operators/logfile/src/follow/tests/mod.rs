//! The follower against a bus that knows sequences as the real one does, and files that are rotated in all ways.

mod files;
mod load;
mod random;
mod rotation;
mod world;
