//! Tests of the whole state machine, each named after a section of the thesis, a trap that somebody
//! fell into, or a row of the fault catalogue.

mod elections;
mod memory;
mod random;
mod reads;
mod recovery;
mod replication;
mod rig;
mod solo;
