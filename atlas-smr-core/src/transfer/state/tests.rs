//! A fetcher among peers that are honest, corrupt, slow, or have moved on.

mod fetching;
mod peers;
mod random;
mod repairing;
mod serving;

use peers::{Run, State, cluster, limits, noise};
