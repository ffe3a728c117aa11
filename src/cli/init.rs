//! `flowctl init`.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;

use super::Stateless;
use super::args::Init;
use super::exit::{Exit, Failure};
use super::out::tell;
use super::text::shown;
use crate::manifest::starter;

pub(super) fn run(cx: &mut Stateless<'_>, args: Init) -> Result<Exit, Failure> {
    if args.file == Path::new("-") {
        cx.out.put(starter())?;
        return Ok(Exit::Done);
    }
    write(&args)?;
    let file = shown(&args.file);
    cx.out.put(&format!("wrote {file}\n"))?;
    tell(&format!("run it with `flowctl apply -f {file} --wait`"));
    Ok(Exit::Done)
}

fn write(args: &Init) -> Result<(), Failure> {
    let mut options = OpenOptions::new();
    options.write(true);
    if args.force {
        options.create(true).truncate(true);
    } else {
        options.create_new(true);
    }
    let failed = |source: io::Error| {
        if source.kind() == io::ErrorKind::AlreadyExists {
            return Failure::Exists {
                path: args.file.clone(),
            };
        }
        Failure::File {
            operation: "write",
            path: args.file.clone(),
            source,
        }
    };
    let mut file = options.open(&args.file).map_err(failed)?;
    file.write_all(starter().as_bytes()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_there_is_only_overwritten_on_demand() {
        let dir = tempfile::tempdir().unwrap();
        let mut args = Init {
            file: dir.path().join("p.yaml"),
            force: false,
        };
        write(&args).unwrap();
        assert!(matches!(write(&args), Err(Failure::Exists { .. })));
        args.force = true;
        std::fs::write(&args.file, "x".repeat(starter().len() + 10)).unwrap();
        write(&args).unwrap();
        assert_eq!(std::fs::read_to_string(&args.file).unwrap(), starter());
    }
}
