//! Components as pods of a Kubernetes cluster.

pub mod objects;
mod render;
mod rights;

pub use render::{RenderError, Rendering, rendered};
pub use rights::{RIGHTS, Right};
