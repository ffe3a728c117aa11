//! Pure decisions.

pub mod health;
