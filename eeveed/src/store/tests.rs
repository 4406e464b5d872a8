//! The store against a naive model, and against everything that can happen to its files.

mod behaviour;
mod crash;
mod cuts;
mod damage;
mod disk;
mod faults;
mod full;
mod generator;
mod model;
mod schemas;
mod speed;
mod worker;
