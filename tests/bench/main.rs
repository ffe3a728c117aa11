//! What flowctl costs, measured from outside: the real binary, real processes, a state directory of
//! its own. `cargo bench -- --help` tells the options.
//!
//! **How times are taken.** The components are a small C program that writes the monotonic clock's
//! nanoseconds as the first thing it does. So a start is timed by the started program itself, and
//! it does not matter how often this one looks.
//!
//! **What is compared.** With `--rivals`, PM2 and supervisord run the same components in the same
//! run. `limit` is what the machine can do at all: fork, exec and waitpid without a supervisor.
//! The rows of containers stand beside the bare calls of the engine that `FLOWCTL_TEST_DOCKER_HOST`
//! names, and beside Docker Compose where that is installed.

mod containers;
mod control;
mod flowctl;
mod limit;
mod proc;
mod rivals;
mod rows;
mod runner;
mod table;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;

use rows::{ROWS, Row};
use table::Table;
use world::World;

/// What can go wrong, in words: a bench has nobody but its reader to tell.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const HELP: &str = "\
cargo bench -- [OPTIONS]

  --rivals       measure PM2 (npm) and supervisord (PyPI) in the same run; they are installed
                 below target/ when they are not there yet
  --quick        few rounds: a look, not a measurement
  --only ROW     only this row; may be repeated
  --who NAME     only flowctl, limit, PM2 or supervisord; may be repeated
  --json FILE    write every sample to FILE, too
  --list         name the rows

The rows of containers need an engine with the tests' image, and say so when there is none:
  tests/engine start FOLDER, then put what it prints before this command.
";

/// How much is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// As the README's table.
    Full,
    /// Only to see that it works.
    Quick,
}

impl Effort {
    /// As many rounds as it asks for.
    fn rounds(self, full: usize, quick: usize) -> usize {
        match self {
            Self::Full => full,
            Self::Quick => quick,
        }
    }
}

struct Options {
    effort: Effort,
    rivals: bool,
    only: Vec<String>,
    who: Vec<String>,
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    let options = match parse(std::env::args().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => return ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(failures) => {
            eprintln!("{failures} figures could not be measured");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// `None` when the answer was printed already.
fn parse(mut args: impl Iterator<Item = String>) -> Result<Option<Options>> {
    let mut options = Options {
        effort: Effort::Full,
        rivals: false,
        only: Vec::new(),
        who: Vec::new(),
        json: None,
    };
    while let Some(arg) = args.next() {
        match arg.as_str() {
            // Cargo says this to every bench.
            "--bench" => {}
            "--rivals" => options.rivals = true,
            "--quick" => options.effort = Effort::Quick,
            "--only" => {
                let key = args.next().ok_or("--only needs the name of a row")?;
                if !ROWS.iter().any(|row| row.key == key) {
                    return Err(format!("there is no row `{key}`; --list names them").into());
                }
                options.only.push(key);
            }
            "--who" => options
                .who
                .push(args.next().ok_or("--who needs a name")?.to_lowercase()),
            "--json" => options.json = Some(args.next().ok_or("--json needs a file")?.into()),
            "--list" => {
                for row in &ROWS {
                    println!("{:16} {}", row.key, row.title);
                }
                return Ok(None);
            }
            "--help" | "-h" => {
                print!("{HELP}");
                return Ok(None);
            }
            other => return Err(format!("unknown option `{other}`").into()),
        }
    }
    Ok(Some(options))
}

/// Measures; answers how many figures could not be had.
fn run(options: &Options) -> Result<usize> {
    let mut world = World::new()?;
    let mut runners = runner::all(options.rivals)?;
    runners.retain(|runner| {
        let name = runner.name().to_lowercase();
        options.who.is_empty() || options.who.iter().any(|who| name.starts_with(who))
    });
    let mut table = Table::new(runners.iter().map(|runner| runner.name()));
    let mut failures = 0;
    for row in ROWS.iter().filter(|row| is_wanted(row, &options.only)) {
        for runner in &mut runners {
            if !row.applies_to(runner.kind()) {
                continue;
            }
            eprintln!("{}: {}", row.key, runner.name());
            let outcome = (row.measure)(runner.as_mut(), &mut world, options.effort);
            // Whatever came of it, nothing of it may disturb the next figure.
            let tidied = runner.down();
            let left = world.sweep();
            match outcome.and_then(|cells| tidied.map(|()| cells)) {
                Ok(mut cells) => {
                    if left > 0
                        && let Some(cell) = cells.first_mut()
                    {
                        cell.remark(format!("{left} processes left running after its end"));
                    }
                    table.add(row.key, &runner.name(), cells);
                }
                Err(error) => {
                    failures += 1;
                    eprintln!("  failed: {error}");
                    table.failed(row.key, &runner.name(), error.to_string());
                }
            }
        }
    }
    println!("{}", table.text());
    if let Some(file) = &options.json {
        std::fs::write(file, table.json()?)
            .map_err(|error| format!("cannot write {}: {error}", file.display()))?;
    }
    Ok(failures)
}

fn is_wanted(row: &Row, only: &[String]) -> bool {
    only.is_empty() || only.iter().any(|key| key == row.key)
}
