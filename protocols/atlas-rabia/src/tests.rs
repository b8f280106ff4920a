//! Tests of the whole state machine, each named after a section of the paper, a trap that others fell
//! into, or a row of the fault catalogue.

#[cfg(feature = "seeded-bugs")]
mod bugs;
mod normal;
mod rig;
