//! `flowctl init`.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;

use super::args::Init;
use super::exit::{Exit, Failure};
use super::out::tell;
use super::text::shown;
use super::{Stateless, explain};
use crate::manifest::starter;

/// What the schema is called beside a manifest.
const SCHEMA: &str = "flowctl.schema.json";

pub(super) fn run(cx: &mut Stateless<'_>, args: Init) -> Result<Exit, Failure> {
    if args.file == Path::new("-") {
        cx.out.put(starter())?;
        return Ok(Exit::Done);
    }
    let text = if args.schema {
        format!("# yaml-language-server: $schema={SCHEMA}\n{}", starter())
    } else {
        starter().to_owned()
    };
    write(&args, &text)?;
    if args.schema {
        let path = args.file.with_file_name(SCHEMA);
        // It is made anew by each release, and nobody's work.
        std::fs::write(&path, explain::text()).map_err(|source| Failure::File {
            operation: "write",
            path: path.clone(),
            source,
        })?;
        cx.out.put(&format!("wrote {}\n", shown(&path)))?;
    }
    let file = shown(&args.file);
    cx.out.put(&format!("wrote {file}\n"))?;
    tell(&format!("run it with `flowctl apply -f {file} --wait`"));
    Ok(Exit::Done)
}

fn write(args: &Init, text: &str) -> Result<(), Failure> {
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
    file.write_all(text.as_bytes()).map_err(failed)
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
            schema: false,
        };
        write(&args, starter()).unwrap();
        assert!(matches!(
            write(&args, starter()),
            Err(Failure::Exists { .. })
        ));
        args.force = true;
        std::fs::write(&args.file, "x".repeat(starter().len() + 10)).unwrap();
        write(&args, starter()).unwrap();
        assert_eq!(std::fs::read_to_string(&args.file).unwrap(), starter());
    }
}
