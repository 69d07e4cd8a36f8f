//! Damage: what can be read is right, the rest is a named error, and the check has noticed (P8).

#![allow(clippy::unwrap_used, reason = "tests may")]

#[path = "../common/mod.rs"]
mod common;
mod everywhere;
mod given_up;
mod journal;
mod kept;
mod text;
mod trial;
