//! `flowctl completion`: scripts by which shells ask this very program what a word may become.
//!
//! A script knows nothing but how its shell is asked and answered, so it never goes out of date: the
//! hidden verb `__complete` answers from the command line's own definition ([`candidates`]), and from
//! the daemon where names of pipelines and components are meant. It starts no daemon, and one that
//! does not answer at once costs nothing but its names.

mod candidates;

use std::time::Duration;

use clap::CommandFactory;
use clap_complete::Shell;

use super::args::{Cli, Complete, Completion};
use super::exit::{Exit, Failure};
use super::help::TOPICS;
use super::place::Clues;
use super::{Stateless, asking};
use crate::api::Client;
use candidates::{Answer, Names, answer};

/// How long a daemon may take to tell names: nobody waits for a tab.
const PATIENCE: Duration = Duration::from_millis(50);

pub(super) fn run(cx: &mut Stateless<'_>, args: Completion) -> Result<Exit, Failure> {
    let own = [
        (Shell::Bash, include_str!("flowctl.bash")),
        (Shell::Zsh, include_str!("flowctl.zsh")),
        (Shell::Fish, include_str!("flowctl.fish")),
    ];
    let own = own.iter().find(|(shell, _)| *shell == args.shell);
    let script = match own {
        Some((_, script)) => (*script).to_owned(),
        None => {
            let mut script = Vec::new();
            clap_complete::generate(args.shell, &mut Cli::command(), "flowctl", &mut script);
            String::from_utf8_lossy(&script).into_owned()
        }
    };
    cx.out.put(&script)?;
    Ok(Exit::Done)
}

/// What the last of the words may become, one a line with what it is; `:files` = any file.
pub(super) fn complete(cx: &mut Stateless<'_>, args: Complete) -> Result<Exit, Failure> {
    let mut command = Cli::command();
    command.build();
    let names = || names(cx);
    match answer(&command, &args.words, names) {
        Answer::Files => cx.out.put(":files\n")?,
        Answer::Words(words) => {
            for (word, about) in words {
                cx.out.put(&format!("{word}\t{about}\n"))?;
            }
        }
    }
    Ok(Exit::Done)
}

/// What runs, as far as a daemon tells at once.
fn names(cx: &Stateless<'_>) -> Names {
    let mut names = Names {
        topics: TOPICS.iter().map(|topic| topic.name.to_owned()).collect(),
        ..Names::default()
    };
    let Ok(state_dir) = Clues::of_this_process(cx.global.state_dir.clone()).state_dir() else {
        return names;
    };
    let asked = asking(async {
        let client = Client::new(&state_dir);
        let answer = tokio::time::timeout(PATIENCE, client.status()).await;
        Ok(answer.ok().and_then(Result::ok))
    });
    let Ok(Some(snapshot)) = asked else {
        return names;
    };
    for pipeline in &snapshot.pipelines {
        names.namespaces.insert(pipeline.namespace.to_string());
        names.pipelines.insert(pipeline.name.to_string());
        for component in &pipeline.components {
            let name = (pipeline.name.to_string(), component.id.to_string());
            names.components.insert(name);
        }
    }
    names
}
