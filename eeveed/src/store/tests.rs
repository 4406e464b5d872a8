//! The store against a naive model, and against everything that can happen to its files.

mod behaviour;
mod crash;
mod cuts;
mod damage;
mod faults;
mod model;
mod speed;
mod worker;
