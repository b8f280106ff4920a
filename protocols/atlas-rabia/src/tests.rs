//! Tests of the whole state machine, each named after what it shows, a trap that others fell into, or a
//! row of the fault catalogue.

mod normal;
mod random;
mod recovery;
mod rig;
mod scheduler;
mod traps;
