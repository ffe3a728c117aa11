//! Memory that the kernel gives and takes back by the page.

use std::ffi::c_void;
use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr;

use super::page_size;

/// Anonymous private memory that costs nothing until it is touched and is given back as a whole.
pub(in super::super) struct Mapping {
    start: ptr::NonNull<u8>,
    len: usize,
}

impl Mapping {
    /// `len` zero bytes, at least one.
    pub(in super::super) fn new(len: usize) -> io::Result<Self> {
        let len = len.max(1);
        // SAFETY: an anonymous private mapping at an address of the kernel's choice touches no
        // existing memory.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = ptr::NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, len })
    }

    /// All of it, as what can be given back in part.
    pub(in super::super) fn pages(&mut self) -> Pages<'_> {
        Pages(self)
    }
}

impl Deref for Mapping {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: the mapping is `len` initialised (zero) bytes and lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Mapping {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `new` and no reference into it outlives `self`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// A part of a [`Mapping`]. That it is one is what makes it sound to give its pages back: the same
/// bytes of the heap or of a stack would be taken from whoever shares their page.
pub(in super::super) struct Pages<'m>(&'m mut [u8]);

impl<'m> Pages<'m> {
    /// What is before `at`, and what is from there on.
    pub(in super::super) fn split_at(self, at: usize) -> (Pages<'m>, Pages<'m>) {
        let (before, after) = self.0.split_at_mut(at);
        (Pages(before), Pages(after))
    }

    /// Gives the whole pages from byte `start` on back to the kernel; they read as zero afterwards.
    pub(in super::super) fn discard_from(&mut self, start: usize) {
        let page = page_size();
        let rest = &mut self.0[start..];
        let start = (rest.as_mut_ptr() as usize).next_multiple_of(page);
        let end = (rest.as_mut_ptr() as usize + rest.len()) / page * page;
        if start < end {
            // SAFETY: the whole pages inside an exclusively borrowed part of an anonymous mapping;
            // zeroing bytes of a `[u8]` keeps it valid.
            unsafe { libc::madvise(start as *mut c_void, end - start, libc::MADV_DONTNEED) };
        }
    }
}

impl Deref for Pages<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.0
    }
}

impl DerefMut for Pages<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.0
    }
}

/// The stack of a process that shares our memory. Below it is a page that nobody may touch: one
/// that needs more ends there, instead of writing into whatever the kernel mapped beside it.
pub(super) struct Stack(Mapping);

impl Stack {
    /// One of at least `len` bytes.
    pub(super) fn new(len: usize) -> io::Result<Self> {
        let page = page_size();
        let mapping = Mapping::new(page + len.next_multiple_of(page))?;
        let lowest = mapping.start.as_ptr().cast();
        // SAFETY: the first page of our own mapping, into which there is no reference.
        if unsafe { libc::mprotect(lowest, page, libc::PROT_NONE) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self(mapping))
    }

    /// Where it begins, to grow downwards; aligned to a page.
    pub(super) fn top(&mut self) -> *mut c_void {
        // SAFETY: one past the end of the mapping.
        unsafe { self.0.start.as_ptr().add(self.0.len) }.cast()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_is_whole_pages_and_the_rest_stays() {
        let page = page_size();
        let mut mapping = Mapping::new(5 * page).unwrap();
        mapping.fill(7);
        // One begins a byte before a page, and the other ends there.
        let (mut first, mut second) = mapping.pages().split_at(2 * page - 1);
        second.discard_from(page + 2);
        let all_are = |bytes: &[u8], wanted| bytes.iter().all(|byte| *byte == wanted);
        assert!(all_are(&second[..=2 * page], 7) && all_are(&second[2 * page + 1..], 0));
        first.discard_from(0);
        assert!(first[..page].iter().all(|byte| *byte == 0));
        assert!(first[page..].iter().all(|byte| *byte == 7));
    }

    #[test]
    fn a_stack_that_is_too_small_ends_at_a_page_that_nobody_may_touch() {
        const LEN: usize = 128 << 10;
        let mut stack = Stack::new(LEN).unwrap();
        let lowest = stack.top() as usize - LEN;
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let below = maps.lines().find_map(|line| {
            let (range, rest) = line.split_once(' ')?;
            let (_, end) = range.split_once('-')?;
            (usize::from_str_radix(end, 16).ok()? == lowest).then_some(rest)
        });
        let below = below.expect("something ends where the stack does");
        assert!(below.starts_with("---p"), "{below}");
    }
}
