//! Short texts on the stack, for the shim, which uses no heap.

use std::ffi::CStr;

/// At most `N` bytes.
pub(super) struct Text<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Text<N> {
    /// An empty text.
    pub(super) fn new() -> Self {
        Self {
            bytes: [0; N],
            len: 0,
        }
    }

    /// `arguments` as they are formatted, cut off after `N - 1` bytes.
    pub(super) fn format(arguments: std::fmt::Arguments<'_>) -> Self {
        let mut text = Self::new();
        let written = std::fmt::write(&mut text, arguments);
        debug_assert!(written.is_ok(), "a text fits its buffer");
        text
    }

    /// The text.
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// The text as a path.
    pub(super) fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or_default()
    }
}

impl<const N: usize> std::fmt::Write for Text<N> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        // One byte stays zero: the terminator of a path.
        let room = (N - 1).saturating_sub(self.len);
        let taken = text.len().min(room);
        self.bytes[self.len..self.len + taken].copy_from_slice(&text.as_bytes()[..taken]);
        self.len += taken;
        if taken < text.len() {
            return Err(std::fmt::Error);
        }
        Ok(())
    }
}

/// FNV-1a of `bytes`: the same in every release, for marks that outlive one.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
