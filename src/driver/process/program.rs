//! Whether a program can be executed, and if not, which file is wrong and how.
//!
//! The kernel answers a failed `execve` with one number that has several causes: "no such file"
//! means the program, its interpreter, or its loader. Here the question is asked file by file, as
//! the kernel goes on from one to the next. `apply` asks it before anything is started, and a start
//! that failed asks it to say why.
//!
//! What cannot be known for certain is no problem: a binary that may be read by nobody, a format for
//! which somebody registered an interpreter of their own.

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::io::{ErrorKind, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, StatVfsMountFlags, accessat, statvfs};

use super::binary::{self, Format};
use super::context::candidates;

/// The kernel reads so much of a file to see what it is.
const HEAD: usize = 256;
/// So many interpreters of interpreters the kernel follows.
const LONGEST_CHAIN: usize = 4;

/// A program that cannot be executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unfit {
    /// As the manifest names it.
    program: String,
    /// What leads to the file that is wrong, each named by the one before.
    through: Vec<Step>,
    /// What is wrong with the last one.
    fault: Fault,
}

/// How one program leads to another.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// It is a script with this interpreter.
    Interpreter(String),
    /// It is `env`, and runs this.
    Runs(String),
}

/// What can be wrong with a file that is to be executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// No entry of PATH has it.
    NotInPath(String),
    /// It is not there; where a relative path was looked for.
    Missing(Option<PathBuf>),
    /// It is a directory.
    Directory(PathBuf),
    /// Nobody may execute it.
    NotExecutable(PathBuf),
    /// The component's user may not execute it, or not reach it.
    Denied(PathBuf),
    /// Nothing on its file system may be executed.
    NoExec(PathBuf),
    /// Neither a binary nor a script.
    Shapeless(PathBuf),
    /// A binary for another machine.
    Foreign(&'static str),
    /// A binary whose loader, this file, is not there.
    NoLoader(String),
    /// The first line of the script ends as Windows has it.
    WindowsLine,
    /// The first line of the script names nothing, or is longer than the kernel reads.
    BadLine,
    /// The first line of the script gives `env` one argument where several were meant.
    EnvArguments(String),
    /// Each interpreter is a script itself.
    Chain,
}

impl Unfit {
    /// What is wrong.
    pub(super) fn fault(&self) -> &Fault {
        &self.fault
    }

    /// Whether it is an interpreter that is wrong, and not the program itself.
    pub(super) fn is_about_an_interpreter(&self) -> bool {
        matches!(self.through.last(), Some(Step::Interpreter(_)))
    }
}

impl std::error::Error for Unfit {}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "program `{}`", self.program)?;
        for step in &self.through {
            match step {
                Step::Interpreter(name) => {
                    write!(f, " is a script whose interpreter `{name}`")?;
                }
                Step::Runs(name) => write!(f, " runs `{name}`, which")?,
            }
        }
        let of_script = self.is_about_an_interpreter();
        match &self.fault {
            Fault::NotInPath(path) if of_script => write!(
                f,
                " was not found in PATH ({path}): install it, or correct the script's first line"
            ),
            Fault::NotInPath(path) => write!(
                f,
                " was not found in PATH ({path}): install it, write its full path, or set PATH in \
                 the component's `env`"
            ),
            Fault::Missing(_) if of_script => {
                f.write_str(" does not exist: install it, or correct the script's first line")
            }
            Fault::Missing(Some(dir)) => write!(
                f,
                " does not exist in {}: build or install it, or correct its path",
                dir.display()
            ),
            Fault::Missing(None) => {
                f.write_str(" does not exist: build or install it, or correct its path")
            }
            Fault::Directory(path) => {
                write!(f, " is a directory ({}): name a program", path.display())
            }
            Fault::NotExecutable(path) => {
                write!(f, " is not executable ({}): chmod +x it", path.display())
            }
            Fault::Denied(path) => write!(
                f,
                " may not be executed by the component's user ({}): give that user the right to, \
                 also to the folders on the way",
                path.display()
            ),
            Fault::NoExec(path) => write!(
                f,
                " lies on a file system that is mounted noexec ({}): move it, or mount that anew",
                path.display()
            ),
            Fault::Shapeless(path) => write!(
                f,
                " is neither a binary of this machine nor a script with a #! line ({}): write its \
                 interpreter into its first line, or in front of it in `command`",
                path.display()
            ),
            Fault::Foreign(machine) => write!(
                f,
                " is a binary for {machine}, which this machine does not run: use one that is \
                 built for {}",
                std::env::consts::ARCH
            ),
            Fault::NoLoader(loader) => write!(
                f,
                " needs the loader {loader}, which does not exist: it is built for another system \
                 or C library; install that, or use a build for this one"
            ),
            Fault::WindowsLine => f.write_str(
                " has Windows line ends, so the interpreter in its first line is not found: save \
                 it with Unix line ends",
            ),
            Fault::BadLine => f.write_str(
                " has a first line that names no interpreter within 255 bytes: correct it",
            ),
            Fault::EnvArguments(words) => write!(
                f,
                " has a first line that makes `env` look for one program named `{words}`: write \
                 `env -S {words}`"
            ),
            Fault::Chain => {
                f.write_str(" is a script again, and so on: name a binary as interpreter")
            }
        }
    }
}

/// Whether the first word of `argv` can be executed in `working_dir` by whoever asks, with `path`
/// as PATH.
///
/// # Errors
/// What is wrong with which file.
pub(super) fn check(argv: &[String], path: &[u8], working_dir: &Path) -> Result<(), Unfit> {
    let program = argv.first().map_or("", String::as_str);
    let search = Search { path, working_dir };
    let arguments = argv.iter().skip(1).map(|word| word.as_bytes().to_vec());
    let found = search.look(program, arguments.collect(), 0);
    found.map_err(|Wrong { through, fault, .. }| Unfit {
        program: program.to_owned(),
        through,
        fault,
    })
}

/// The file that `program` means; `None` when there is none.
pub(super) fn resolve(program: &str, path: &[u8], working_dir: &Path) -> Option<PathBuf> {
    let mut all = candidates(program, path).into_iter();
    all.find_map(|candidate| {
        let file = working_dir.join(candidate);
        fs::metadata(&file)
            .is_ok_and(|it| it.is_file())
            .then_some(file)
    })
}

/// What was found to be wrong, on the way back to who asked.
struct Wrong {
    through: Vec<Step>,
    fault: Fault,
    /// Whether it is about the first line of the script that led there, and not about what that
    /// names.
    is_of_line: bool,
}

impl Wrong {
    fn here(fault: Fault) -> Self {
        Self {
            through: Vec::new(),
            fault,
            is_of_line: false,
        }
    }

    /// The same as `script` sees it, whose first line names `interpreter`.
    fn of_script(mut self, interpreter: String) -> Self {
        if std::mem::take(&mut self.is_of_line) {
            return self;
        }
        match self.through.first_mut() {
            // `env` is in between for no other reason than to look a name up.
            Some(first) => match std::mem::replace(first, Step::Interpreter(interpreter.clone())) {
                Step::Runs(name) => *first = Step::Interpreter(name),
                step @ Step::Interpreter(_) => self.through.insert(1, step),
            },
            None => self.through.push(Step::Interpreter(interpreter)),
        }
        self
    }
}

struct Search<'a> {
    path: &'a [u8],
    working_dir: &'a Path,
}

impl Search<'_> {
    /// A program by name or path, with the arguments that it gets.
    fn look(&self, program: &str, arguments: Vec<Vec<u8>>, depth: usize) -> Result<(), Wrong> {
        let mut fault = None;
        for candidate in candidates(program, self.path) {
            let file = self.working_dir.join(&candidate);
            match fs::metadata(&file) {
                Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                    fault = fault.or(Some(Fault::Denied(file)));
                }
                Err(_) => {}
                Ok(it) if it.is_dir() => fault = fault.or(Some(Fault::Directory(file))),
                Ok(it) => match may_execute(&file, it.permissions().mode()) {
                    Ok(()) => return self.judge(&file, arguments, depth),
                    Err(why) => fault = fault.or(Some(why)),
                },
            }
        }
        let fault = fault.unwrap_or_else(|| match program.contains('/') {
            true => {
                Fault::Missing((!program.starts_with('/')).then(|| self.working_dir.to_owned()))
            }
            false => Fault::NotInPath(String::from_utf8_lossy(self.path).into_owned()),
        });
        Err(Wrong::here(fault))
    }

    /// A file that may be executed: what the kernel makes of its first bytes.
    fn judge(&self, file: &Path, arguments: Vec<Vec<u8>>, depth: usize) -> Result<(), Wrong> {
        let here = |fault| Err(Wrong::here(fault));
        let Some(head) = head_of(file) else {
            return Ok(());
        };
        if let Some(line) = head.strip_prefix(b"#!") {
            return self.judge_script(file, line, arguments, depth);
        }
        match binary::format_of(file, &head) {
            Format::Native { loader: None } | Format::Unknown => {}
            Format::Native {
                loader: Some(loader),
            } => {
                if !Path::new(OsStr::from_bytes(&loader)).exists() {
                    let shown = String::from_utf8_lossy(&loader).into_owned();
                    return here(Fault::NoLoader(shown));
                }
            }
            Format::Foreign(_) | Format::None if binary::is_claimed(file, &head) => {}
            Format::Foreign(machine) => return here(Fault::Foreign(machine)),
            Format::None => return here(Fault::Shapeless(file.to_owned())),
        }
        if file.file_name() == Some(OsStr::new("env")) {
            return self.judge_env(&arguments, depth);
        }
        Ok(())
    }

    fn judge_script(
        &self,
        script: &Path,
        line: &[u8],
        arguments: Vec<Vec<u8>>,
        depth: usize,
    ) -> Result<(), Wrong> {
        let here = |fault| Err(Wrong::here(fault));
        if depth > LONGEST_CHAIN {
            return here(Fault::Chain);
        }
        let end = line.iter().position(|byte| *byte == b'\n');
        let text = trim_blanks(&line[..end.unwrap_or(line.len())]);
        let blank = |byte: &u8| *byte == b' ' || *byte == b'\t';
        let name_end = text.iter().position(blank);
        let name = &text[..name_end.unwrap_or(text.len())];
        let rest = name_end.map_or(&[][..], |at| trim_blanks(&text[at..]));
        let file_named = self.working_dir.join(OsStr::from_bytes(name));
        if name.ends_with(b"\r") && !file_named.exists() {
            return here(Fault::WindowsLine);
        }
        let is_cut = end.is_none() && line.len() + 2 >= HEAD && name_end.is_none();
        if name.is_empty() || is_cut {
            return here(Fault::BadLine);
        }
        // What follows the name is one argument, whatever it holds; then come the script and its own.
        let mut given = Vec::new();
        if !rest.is_empty() {
            given.push(rest.to_vec());
        }
        given.push(script.as_os_str().as_bytes().to_vec());
        given.extend(arguments);
        let name = String::from_utf8_lossy(name).into_owned();
        // Unlike a program, an interpreter is never looked up in PATH.
        let found = if name.contains('/') {
            self.look(&name, given, depth + 1)
        } else {
            self.look(&format!("./{name}"), given, depth + 1)
        };
        found.map_err(|wrong| wrong.of_script(name))
    }

    /// What `env` is asked to run, as far as that can be told from its arguments.
    fn judge_env(&self, arguments: &[Vec<u8>], depth: usize) -> Result<(), Wrong> {
        if depth > LONGEST_CHAIN {
            return Ok(());
        }
        let mut words: Vec<Vec<u8>> = arguments.to_vec();
        let mut split = false;
        if let Some(first) = words.first().cloned()
            && let Some(text) = split_string(&first)
        {
            split = true;
            let parts = text
                .split(u8::is_ascii_whitespace)
                .filter(|word| !word.is_empty());
            let parts: Vec<Vec<u8>> = parts.map(<[u8]>::to_vec).collect();
            // Quotes and variables in there mean something to `env` alone.
            if parts.iter().flatten().any(|byte| b"'\"\\$#".contains(byte)) {
                return Ok(());
            }
            words.splice(..1, parts);
        }
        let is_setting = |word: &Vec<u8>| word.contains(&b'=');
        let sets_path = |word: &Vec<u8>| word.starts_with(b"PATH=");
        if words
            .iter()
            .take_while(|word| is_setting(word))
            .any(sets_path)
        {
            return Ok(());
        }
        let mut words = words.into_iter().skip_while(is_setting);
        let Some(name) = words.next() else {
            return Ok(());
        };
        // Other options of `env` change what the name means.
        let Ok(name) = String::from_utf8(name) else {
            return Ok(());
        };
        if name.starts_with('-') || name.is_empty() {
            return Ok(());
        }
        let is_of_script = depth > 0;
        let found = self.look(&name, words.collect(), depth + 1);
        found.map_err(|mut wrong| {
            let of_line = |fault| Wrong {
                is_of_line: true,
                ..Wrong::here(fault)
            };
            if is_of_script && name.ends_with('\r') {
                return of_line(Fault::WindowsLine);
            }
            if is_of_script && !split && name.contains([' ', '\t']) {
                return of_line(Fault::EnvArguments(name));
            }
            wrong.through.insert(0, Step::Runs(name));
            wrong
        })
    }
}

/// Without blanks around it, as the kernel takes the rest of the line.
fn trim_blanks(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

/// The text of `env -S TEXT`, written as one word.
fn split_string(word: &[u8]) -> Option<&[u8]> {
    [&b"-S"[..], b"-vS", b"--split-string="]
        .iter()
        .find_map(|option| word.strip_prefix(*option))
}

/// The beginning of a file; `None` when it cannot be read, though it may be executed.
fn head_of(file: &Path) -> Option<Vec<u8>> {
    // A pipe or a device is never executed, and reading one could wait for ever.
    if !fs::metadata(file).is_ok_and(|it| it.is_file()) {
        return None;
    }
    let mut head = Vec::with_capacity(HEAD);
    File::open(file)
        .and_then(|open| open.take(HEAD as u64).read_to_end(&mut head))
        .ok()?;
    Some(head)
}

/// Whether whoever asks may execute a file that is there.
fn may_execute(file: &Path, mode: u32) -> Result<(), Fault> {
    if accessat(CWD, file, Access::EXEC_OK, AtFlags::empty()).is_ok() {
        return Ok(());
    }
    let file = file.to_owned();
    let no_exec = statvfs(&file).is_ok_and(|it| it.f_flag.contains(StatVfsMountFlags::NOEXEC));
    Err(match () {
        () if mode & 0o111 == 0 => Fault::NotExecutable(file),
        () if no_exec => Fault::NoExec(file),
        () => Fault::Denied(file),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of `./a`, which holds this text.
    fn told(text: &[u8], mode: u32, others: &[(&str, &str)]) -> String {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &[u8], mode| {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        };
        write("a", text, mode);
        for (name, text) in others {
            write(name, text.as_bytes(), 0o755);
        }
        let answer = check(&["./a".to_owned()], b"/usr/bin:/bin", dir.path());
        answer.map_or_else(|unfit| unfit.to_string(), |()| "fit".to_owned())
    }

    #[test]
    fn the_file_that_is_wrong_is_named_and_what_is_wrong_with_it() {
        let elf = |machine: u16| {
            let own = std::env::current_exe().unwrap();
            let mut bytes = fs::read(own).unwrap();
            bytes.truncate(1 << 12);
            bytes[18..20].copy_from_slice(&machine.to_le_bytes());
            bytes
        };
        let long = format!("#!/{}\n", "d/".repeat(200));
        for (text, wanted) in [
            (&b"#!/bin/sh\n"[..], "fit"),
            (b"#! /bin/sh -e\n", "fit"),
            (b"#!/usr/bin/env sh\n", "fit"),
            (b"#!/usr/bin/env -S sh -e\n", "fit"),
            (b"#!/usr/bin/env -S X=1 sh -e\n", "fit"),
            (b"#!/usr/bin/env -S PATH=/elsewhere odd\n", "fit"),
            (b"#!/usr/bin/env -i odd\n", "fit"),
            (b"#!./inner\n", "fit"),
            (
                b"#!/no/such/python -u\n",
                "program `./a` is a script whose interpreter `/no/such/python` does not exist: \
                 install it",
            ),
            (
                b"#!/usr/bin/env python9\n",
                "program `./a` is a script whose interpreter `python9` was not found in PATH",
            ),
            (
                b"#!/usr/bin/env -S python9 -u\n",
                "program `./a` is a script whose interpreter `python9` was not found in PATH",
            ),
            (
                b"#!/usr/bin/env python9 -u\n",
                "program `./a` has a first line that makes `env` look for one program named \
                 `python9 -u`: write `env -S python9 -u`",
            ),
            (
                b"#!./outer\n",
                "program `./a` is a script whose interpreter `./outer` is a script whose \
                 interpreter `/no/such/thing` does not exist",
            ),
            (b"#!./a\n", "program `./a` is a script whose interpreter"),
            (b"#!/bin/sh\r\n", "program `./a` has Windows line ends"),
            (
                b"#!/usr/bin/env sh\r\n",
                "program `./a` has Windows line ends",
            ),
            (b"#!\n", "program `./a` has a first line that names no"),
            (long.as_bytes(), "program `./a` has a first line that names"),
            (b"echo\n", "program `./a` is neither a binary of this"),
            (b"", "program `./a` is neither a binary of this machine"),
            (&elf(22), "program `./a` is a binary for s390x, which this"),
        ] {
            let others = [("inner", "#!/bin/sh\n"), ("outer", "#!/no/such/thing\n")];
            let told = told(text, 0o755, &others);
            let shown = String::from_utf8_lossy(&text[..text.len().min(40)]);
            assert!(told.starts_with(wanted), "{shown:?}: {told}");
        }
        let told = told(b"#!/bin/sh\n", 0o644, &[]);
        assert!(
            told.starts_with("program `./a` is not executable ("),
            "{told}"
        );
    }

    #[test]
    fn a_missing_loader_is_named() {
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        let at = own.windows(9).position(|window| window == b"ld-linux-");
        let Some(at) = at else {
            println!("skipped: this test has no loader");
            return;
        };
        let mut other = own[..1 << 16].to_vec();
        other[at..at + 3].copy_from_slice(b"no-");
        let told = told(&other, 0o755, &[]);
        assert!(told.contains("needs the loader /lib"), "{told}");
        assert!(told.contains("no-linux-"), "{told}");
    }

    #[test]
    fn env_as_a_program_is_seen_through() {
        let words = ["env", "A=1", "python9"].map(str::to_owned);
        let told = check(&words, b"/usr/bin:/bin", Path::new("/")).unwrap_err();
        let wanted = "program `env` runs `python9`, which was not found in PATH (/usr/bin:/bin)";
        assert!(told.to_string().starts_with(wanted), "{told}");
        let words = ["env", "A=1", "sh"].map(str::to_owned);
        assert_eq!(check(&words, b"/usr/bin:/bin", Path::new("/")), Ok(()));
    }

    #[test]
    fn what_may_not_be_reached_or_is_a_folder_is_said() {
        let check = |program: &str| {
            let argv = [program.to_owned()];
            check(&argv, b"/nowhere", Path::new("/etc"))
                .unwrap_err()
                .fault
        };
        assert_eq!(check("/etc"), Fault::Directory("/etc".into()));
        assert_eq!(check("./no"), Fault::Missing(Some("/etc".into())));
        assert_eq!(check("/no/such"), Fault::Missing(None));
        assert_eq!(check("no"), Fault::NotInPath("/nowhere".to_owned()));
    }
}
