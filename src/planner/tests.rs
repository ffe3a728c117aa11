//! The decision table, and properties over generated worlds.
