//! Tests of the whole state machine, each named after a section of the paper or a row of the fault
//! catalogue.

mod behind;
mod byzantine;
mod keys;
mod normal;
mod overload;
mod recovery;
mod rig;
mod views;
