//! What one driver alone has fields and rules for.

pub(super) mod kubernetes;
