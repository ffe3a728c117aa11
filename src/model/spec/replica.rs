//! The number of a replica in the texts of its component.

/// The literal that stands for the replica's number until an instance starts.
pub(super) const REFERENCE: &str = "${{ component.replica }}";

/// `text` as replica `replica` gets it.
pub(super) fn filled(text: &str, replica: u32) -> String {
    text.replace(REFERENCE, &replica.to_string())
}
