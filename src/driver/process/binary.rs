//! What the kernel makes of a file that is no script.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// A kind of executable file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// A binary for this machine.
    Native {
        /// The loader that it names; `None` for a static one.
        loader: Option<Vec<u8>>,
    },
    /// A binary for another machine.
    Foreign(&'static str),
    /// A binary of which more cannot be told.
    Unknown,
    /// No binary.
    None,
}

/// The longest path of a loader that is believed.
const LONGEST_LOADER: u64 = 4096;
/// More headers than any program has.
const MOST_HEADERS: u64 = 512;
/// A program header that names the loader.
const PT_INTERP: u32 = 3;

/// Machines by their numbers in ELF headers.
const MACHINES: [(u16, &str); 10] = [
    (3, "x86 (32 bit)"),
    (8, "mips"),
    (20, "powerpc"),
    (21, "powerpc64"),
    (22, "s390x"),
    (40, "arm (32 bit)"),
    (62, "x86_64"),
    (183, "aarch64"),
    (243, "riscv"),
    (258, "loongarch"),
];

/// What `file` is, whose first bytes are `head`.
pub(super) fn format_of(file: &Path, head: &[u8]) -> Format {
    if !head.starts_with(b"\x7fELF") {
        return Format::None;
    }
    let Some(header) = Header::read(head) else {
        return Format::Unknown;
    };
    if !header.is_native() {
        // 32-bit programs of the same family are run by most kernels; a number that is not known
        // says nothing.
        let sibling = matches!(
            (std::env::consts::ARCH, header.machine),
            ("x86_64", 3) | ("aarch64", 40)
        );
        let named = MACHINES
            .iter()
            .find(|(number, _)| *number == header.machine);
        return match named {
            Some((_, name)) if !sibling => Format::Foreign(name),
            Some(_) | None => Format::Unknown,
        };
    }
    match File::open(file).ok().and_then(|open| header.loader(&open)) {
        Some(loader) => Format::Native { loader },
        None => Format::Unknown,
    }
}

/// Whether somebody taught this kernel to run `file`, whose first bytes are `head`, by an
/// interpreter of its own.
pub(super) fn is_claimed(file: &Path, head: &[u8]) -> bool {
    let Ok(entries) = std::fs::read_dir("/proc/sys/fs/binfmt_misc") else {
        return false;
    };
    let rules = entries
        .flatten()
        .filter(|entry| entry.file_name() != "register");
    rules
        .filter_map(|entry| std::fs::read_to_string(entry.path()).ok())
        .any(|rule| claims(&rule, file, head))
}

/// Whether one rule of `binfmt_misc`, as the kernel shows it, is about this file.
fn claims(rule: &str, file: &Path, head: &[u8]) -> bool {
    if rule.lines().next() != Some("enabled") {
        return false;
    }
    let value = |name: &str| {
        let mut lines = rule.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
    };
    if let Some(extension) = value("extension") {
        let own = file.extension().and_then(|it| it.to_str());
        return own.is_some_and(|own| extension.trim_start_matches('.') == own);
    }
    let Some(magic) = value("magic").and_then(bytes_of) else {
        return false;
    };
    let offset = value("offset").and_then(|it| it.parse().ok()).unwrap_or(0);
    let mask = value("mask").and_then(bytes_of);
    let Some(there) = head.get(offset..offset + magic.len()) else {
        return false;
    };
    let masked = |at: usize, byte: u8| {
        let mask = mask.as_ref().and_then(|mask| mask.get(at).copied());
        byte & mask.unwrap_or(0xff)
    };
    there
        .iter()
        .zip(&magic)
        .enumerate()
        .all(|(at, (own, wanted))| masked(at, *own) == masked(at, *wanted))
}

/// The bytes that pairs of hexadecimal digits stand for.
fn bytes_of(hex: &str) -> Option<Vec<u8>> {
    let digits = hex.as_bytes().chunks(2);
    digits
        .map(|pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

/// The parts of a 64-bit little-endian ELF header that matter here.
struct Header {
    is_64_bit: bool,
    is_little_endian: bool,
    machine: u16,
    headers_at: u64,
    header_size: u64,
    headers: u64,
}

impl Header {
    fn read(head: &[u8]) -> Option<Self> {
        let is_64_bit = *head.get(4)? == 2;
        let is_little_endian = *head.get(5)? == 1;
        let two = |at: usize| -> Option<u16> {
            let bytes = head.get(at..at + 2)?.try_into().ok()?;
            Some(match is_little_endian {
                true => u16::from_le_bytes(bytes),
                false => u16::from_be_bytes(bytes),
            })
        };
        let eight = |at: usize| -> Option<u64> {
            Some(u64::from_le_bytes(head.get(at..at + 8)?.try_into().ok()?))
        };
        Some(Self {
            is_64_bit,
            is_little_endian,
            machine: two(18)?,
            headers_at: eight(32)?,
            header_size: u64::from(two(54)?),
            headers: u64::from(two(56)?),
        })
    }

    fn is_native(&self) -> bool {
        let own = match std::env::consts::ARCH {
            "x86_64" => 62,
            "aarch64" => 183,
            "riscv64" => 243,
            _ => return true,
        };
        self.machine == own && self.is_64_bit && self.is_little_endian
    }

    /// The loader of a native program; the outer `None` = it cannot be told.
    fn loader(&self, file: &File) -> Option<Option<Vec<u8>>> {
        if !self.is_64_bit || !self.is_little_endian || self.header_size < 56 {
            return None;
        }
        for number in 0..self.headers.min(MOST_HEADERS) {
            let mut entry = [0; 56];
            let at = self.headers_at.checked_add(number * self.header_size)?;
            file.read_exact_at(&mut entry, at).ok()?;
            let eight = |at: usize| -> Option<u64> {
                Some(u64::from_le_bytes(entry.get(at..at + 8)?.try_into().ok()?))
            };
            let kind = u32::from_le_bytes(entry[..4].try_into().ok()?);
            if kind != PT_INTERP {
                continue;
            }
            let (at, size) = (eight(8)?, eight(32)?);
            if size == 0 || size > LONGEST_LOADER {
                return None;
            }
            let mut path = vec![0; usize::try_from(size).ok()?];
            file.read_exact_at(&mut path, at).ok()?;
            let end = path.iter().position(|byte| *byte == 0)?;
            path.truncate(end);
            return Some(Some(path));
        }
        Some(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_of_the_kernel_claims_what_it_is_about() {
        let qemu = "enabled\ninterpreter /usr/bin/qemu\nflags: OCF\noffset 0\nmagic 7f454c4602\n\
                    mask ffffffff00\n";
        let jar = "enabled\ninterpreter /usr/bin/jexec\nflags: \nextension .jar\n";
        for (rule, name, head, wanted) in [
            (qemu, "a", &b"\x7fELF\x01"[..], true),
            (qemu, "a", b"\x7fELF", false),
            (qemu, "a", b"MZMZMZ", false),
            (jar, "a.jar", b"", true),
            (jar, "a.jarr", b"", false),
            ("enabled", "status", b"", false),
            (
                &qemu.replace("enabled", "disabled"),
                "a",
                b"\x7fELF\x01",
                false,
            ),
        ] {
            assert_eq!(claims(rule, Path::new(name), head), wanted, "{rule} {name}");
        }
    }

    #[test]
    fn a_binary_of_this_machine_names_its_loader_and_another_its_machine() {
        let own = std::env::current_exe().unwrap();
        let bytes = std::fs::read(&own).unwrap();
        let Format::Native { loader } = format_of(&own, &bytes[..256]) else {
            panic!("this test is a binary of this machine");
        };
        assert!(loader.is_none_or(|loader| loader.starts_with(b"/")));
        let mut foreign = bytes[..256].to_vec();
        foreign[18..20].copy_from_slice(&22u16.to_le_bytes());
        assert_eq!(format_of(&own, &foreign), Format::Foreign("s390x"));
        assert_eq!(format_of(&own, b"echo"), Format::None);
        assert_eq!(format_of(&own, b"\x7fELF"), Format::Unknown);
    }
}
