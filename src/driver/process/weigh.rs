//! What the kernel takes of a program's arguments and variables, weighed before it is asked.
//!
//! `execve` answers "argument list too long" for four different limits and names nothing. Whatever
//! is handed to a program is weighed here, before `apply` begins and at each start, and what is too
//! heavy is named with its size; its text is never shown.

use std::fmt;

use super::sys::{STACK_LIMIT, page_size};

/// Bytes of a path, the end included.
const PATH_MAX: usize = 4096;
/// The kernel allows no less for arguments and variables together,
const LEAST_TOTAL: u64 = 128 << 10;
/// and no more, however large the stack may grow.
const MOST_TOTAL: u64 = 6 << 20;
/// What the kernel itself puts beside them: the program's path, and for a script its interpreter's.
const OWN_SHARE: usize = 2 * PATH_MAX;
/// The kernel keeps a pointer to each string.
const POINTER: usize = size_of::<usize>();

/// One thing that is handed to a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// The name or path of the program.
    Program,
    /// An argument, counted from 1.
    Argument(usize),
    /// A variable by its name.
    Variable(String),
    /// The directory that it runs in.
    WorkingDir,
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Program => f.write_str("the program's name"),
            Self::Argument(number) => write!(f, "argument {number}"),
            Self::Variable(name) => write!(f, "variable {}", shown(name)),
            Self::WorkingDir => f.write_str("the working directory"),
        }
    }
}

/// A name as it can be shown: cut, and without what could steer a terminal.
fn shown(name: &str) -> String {
    const LONGEST: usize = 64;
    let mut text: String = name
        .chars()
        .filter(|c| !c.is_control())
        .take(LONGEST)
        .collect();
    if text.len() < name.len() {
        text.push('…');
    }
    text
}

/// Why a program cannot be given what it should get.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Overweight {
    /// One string.
    #[error(
        "{item} is {bytes} bytes long, and the kernel takes no more than {limit}: pass it in a \
         file"
    )]
    TooLong {
        /// Which.
        item: Item,
        /// With its name, if it has one, and the end.
        bytes: usize,
        /// The most that is taken.
        limit: usize,
    },
    /// All of them together.
    #[error(
        "arguments and variables are {bytes} bytes together, and the kernel takes no more than \
         {limit}; the largest is {largest} with {largest_bytes}: pass it in a file"
    )]
    TooMuch {
        /// All.
        bytes: usize,
        /// The most that is taken.
        limit: u64,
        /// The heaviest.
        largest: Item,
        /// Its weight.
        largest_bytes: usize,
    },
    /// A byte that ends a string for the kernel.
    #[error("{item} holds a NUL byte, which no program can be given: remove it")]
    Nul {
        /// Where.
        item: Item,
    },
    /// A variable that no program could find.
    #[error("{item} has a name that no variable can have: it is empty or holds `=`")]
    Name {
        /// Which.
        item: Item,
    },
}

/// What the kernel of this host takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scales {
    /// Bytes of one string, the end included.
    string: usize,
    /// Bytes of all.
    total: u64,
}

impl Scales {
    /// Those of this host, for a program whose stack may grow as far as components' do.
    pub(super) fn of_this_host() -> Self {
        let hard = rustix::process::getrlimit(rustix::process::Resource::Stack).maximum;
        let stack = hard.map_or(STACK_LIMIT, |hard| hard.min(STACK_LIMIT));
        Self {
            string: 32 * page_size(),
            total: (stack / 4).clamp(LEAST_TOTAL, MOST_TOTAL),
        }
    }

    /// Weighs all that a program is to get.
    ///
    /// # Errors
    /// The first thing that is wrong by itself, else the sum.
    pub(super) fn weigh<'a>(
        &self,
        argv: impl IntoIterator<Item = &'a [u8]>,
        variables: impl IntoIterator<Item = (&'a str, &'a [u8])>,
        working_dir: &[u8],
    ) -> Result<(), Overweight> {
        self.weigh_path(Item::WorkingDir, working_dir)?;
        let mut sum = Sum::default();
        for (number, argument) in argv.into_iter().enumerate() {
            let item = || match number {
                0 => Item::Program,
                number => Item::Argument(number),
            };
            self.weigh_one(item, argument.len() + 1, &[argument], &mut sum)?;
            if number == 0 {
                self.weigh_path(Item::Program, argument)?;
            }
        }
        for (name, value) in variables {
            let item = || Item::Variable(name.to_owned());
            if name.is_empty() || name.contains('=') {
                return Err(Overweight::Name { item: item() });
            }
            let bytes = name.len() + value.len() + "=\0".len();
            self.weigh_one(item, bytes, &[name.as_bytes(), value], &mut sum)?;
        }
        let bytes = sum.bytes + OWN_SHARE;
        match sum.largest {
            Some((largest, largest_bytes)) if bytes as u64 > self.total => {
                Err(Overweight::TooMuch {
                    bytes,
                    limit: self.total,
                    largest,
                    largest_bytes,
                })
            }
            Some(_) | None => Ok(()),
        }
    }

    fn weigh_one(
        &self,
        item: impl Fn() -> Item,
        bytes: usize,
        parts: &[&[u8]],
        sum: &mut Sum,
    ) -> Result<(), Overweight> {
        if parts.iter().any(|part| part.contains(&0)) {
            return Err(Overweight::Nul { item: item() });
        }
        if bytes > self.string {
            return Err(Overweight::TooLong {
                item: item(),
                bytes,
                limit: self.string,
            });
        }
        sum.bytes += bytes + POINTER;
        if sum.largest.as_ref().is_none_or(|(_, most)| bytes > *most) {
            sum.largest = Some((item(), bytes));
        }
        Ok(())
    }

    fn weigh_path(&self, item: Item, path: &[u8]) -> Result<(), Overweight> {
        if path.contains(&0) {
            return Err(Overweight::Nul { item });
        }
        let (bytes, limit) = (path.len() + 1, PATH_MAX);
        if bytes > limit {
            return Err(Overweight::TooLong { item, bytes, limit });
        }
        Ok(())
    }
}

#[derive(Default)]
struct Sum {
    bytes: usize,
    largest: Option<(Item, usize)>,
}

/// Whether the kernel takes a path of so many bytes, its end not included.
pub(super) fn is_path_length(bytes: usize) -> bool {
    bytes < PATH_MAX
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    const SCALES: Scales = Scales {
        string: 131_072,
        total: 2 << 20,
    };

    fn told(argv: &[&[u8]], variables: &[(&str, &[u8])], dir: &[u8]) -> String {
        let weighed = SCALES.weigh(argv.iter().copied(), variables.iter().copied(), dir);
        weighed.map_or_else(|why| why.to_string(), |()| "taken".to_owned())
    }

    #[test]
    fn what_is_too_heavy_is_named_with_its_size_and_never_shown() {
        let long = vec![b'x'; 131_072];
        let path = vec![b'p'; 4096];
        let many = vec![("V", &long[..100_000]); 21];
        for (argv, variables, dir, wanted) in [
            (vec![&b"a"[..]], vec![("V", &b"1"[..])], &b"/"[..], "taken"),
            (vec![b"a"], vec![("V", &long[..131_069])], b"/", "taken"),
            (
                vec![b"a"],
                vec![("BLOB", &long[..131_067])],
                b"/",
                "variable BLOB is 131073 bytes long, and the kernel takes no more than 131072",
            ),
            (vec![b"a", &long[..131_071]], vec![], b"/", "taken"),
            (
                vec![b"a", b"b", &long],
                vec![],
                b"/",
                "argument 2 is 131073 bytes long",
            ),
            (
                vec![&path],
                vec![],
                b"/",
                "the program's name is 4097 bytes long, and the kernel takes no more than 4096",
            ),
            (
                vec![b"a"],
                vec![],
                &path,
                "the working directory is 4097 bytes long",
            ),
            (vec![b"a"], many, b"/", "arguments and variables are 21"),
            (
                vec![b"a", b"b\0c"],
                vec![],
                b"/",
                "argument 1 holds a NUL byte",
            ),
            (
                vec![b"a"],
                vec![("V", b"b\0c")],
                b"/",
                "variable V holds a NUL byte",
            ),
            (
                vec![b"a"],
                vec![("A=B", b"c")],
                b"/",
                "variable A=B has a name that no variable can have",
            ),
        ] {
            let told = told(&argv, &variables, dir);
            assert!(told.starts_with(wanted), "{wanted}: {told}");
            assert!(!told.contains("xxxx") && !told.contains("pppp"), "{told}");
        }
    }

    #[test]
    fn the_kernel_takes_what_is_weighed_as_taken_and_refuses_one_string_more() {
        let scales = Scales::of_this_host();
        let fits = |bytes: usize| {
            let value = "x".repeat(bytes);
            let weighed = scales.weigh([&b"true"[..]], [("V", value.as_bytes())], b"/");
            let taken = Command::new("true").env("V", value).status();
            (weighed.is_ok(), taken.is_ok())
        };
        assert_eq!(fits(scales.string - 3), (true, true));
        assert_eq!(fits(scales.string - 2), (false, false));
    }
}
