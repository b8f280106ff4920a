//! A node of an Atlas cluster.

pub mod admin;
pub mod config;
