//! Tables for every operator and every mistake, and the promises of filters as properties.

mod cost;
mod mistakes;
mod properties;
mod tables;
