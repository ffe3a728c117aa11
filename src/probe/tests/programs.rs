//! Exec probes.

use super::*;
use crate::model::{ExitStatus, Signal};
use crate::probe::{Ended, Ending, ExecSite, Inside, NotBegun};

/// Answers each command with what its first word says.
struct Scripted;

#[async_trait]
impl Inside for Scripted {
    async fn begin(&self, _: &InstanceId, command: &[String]) -> Result<Ending, NotBegun> {
        let output = command.get(1).cloned().unwrap_or_default().into_bytes();
        let status = match command[0].as_str() {
            "missing" => return Err(NotBegun::Component("it is missing".to_owned())),
            "nowhere" => return Err(NotBegun::NoPlace("it is gone".to_owned())),
            "never-begins" => std::future::pending().await,
            "hangs" => return Ok(Box::pin(std::future::pending())),
            "lost" => return Ok(Box::pin(async { Err("nobody saw it".to_owned()) })),
            "killed" => ExitStatus::Signal(Signal::KILL),
            code => ExitStatus::Code(code.parse().unwrap()),
        };
        Ok(Box::pin(async move { Ok(Ended { status, output }) }))
    }
}

fn scripted() -> Target {
    Target {
        ports: on_loopback().ports,
        exec: Some(ExecSite::new(an_instance(), Arc::new(Scripted))),
    }
}

fn command(words: &[&str]) -> ProbeCheck {
    ProbeCheck::Exec {
        command: words.iter().map(|&word| word.to_owned()).collect(),
    }
}

#[tokio::test]
async fn a_program_passes_with_exit_0_and_tells_its_first_line_otherwise() {
    let long = "x".repeat(10_000);
    let cut = format!("exit 1: {}", "x".repeat(120));
    for (words, wanted) in [
        (vec!["0"], ProbeOutcome::Pass),
        (vec!["0", "fine"], ProbeOutcome::Pass),
        (vec!["3"], failed("exit 3")),
        (vec!["1", "\nno luck\nmore"], failed("exit 1: no luck")),
        (vec!["1", "\x1b[31mred\x07"], failed("exit 1: [31mred")),
        (vec!["1", &long], failed(&cut)),
        (vec!["killed"], failed("killed by SIGKILL")),
        (vec!["missing"], failed("it is missing")),
        (vec![], failed("its command is empty")),
    ] {
        let (answer, _) = asked(command(&words), scripted(), AMPLE).await;
        assert_eq!(answer, wanted, "{words:?}");
    }
    let soon = Duration::from_millis(10);
    let (answer, _) = asked(command(&["hangs"]), scripted(), soon).await;
    assert_eq!(answer, failed("no answer within 10ms"));
}

#[tokio::test]
async fn what_was_not_begun_says_nothing_about_the_component() {
    let soon = Duration::from_millis(10);
    for word in ["nowhere", "lost", "never-begins"] {
        let answer = ask(&command(&[word]), &scripted(), soon).await;
        assert!(answer.is_err(), "{word}: {answer:?}");
    }
    let answer = ask(&command(&["0"]), &on_loopback(), AMPLE).await;
    assert!(answer.is_err());
}
