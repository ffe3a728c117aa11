//! `flowctl apply`.

use tokio::time::{Instant, sleep};

use super::args::{self, TextOrJson};
use super::describe::host_mounts;
use super::diff;
use super::exit::{Exit, Failure};
use super::goal::Goal;
use super::host::Question;
use super::out::tell;
use super::reader::{GOING, LOOK_AGAIN};
use super::sources::gather_to_follow;
use super::text::shown;
use super::{Context, spawn, wait};
use crate::api::{
    AppliedPipeline, ApplyAnswer, ApplyRequest, CallerVariables, ChangeWord, ClientError,
    ErrorCode, SourceInput, Watching, WhenUnready,
};

pub(super) async fn run(cx: &mut Context<'_>, args: args::Apply) -> Result<Exit, Failure> {
    let request = ApplyRequest {
        sources: gather_to_follow(args.files.all(), args.timeout).await?,
        namespace: cx.global.namespace.clone(),
        watch: if args.no_watch {
            Watching::No
        } else {
            Watching::Yes
        },
        orchestrator: args.orchestrator.map(Into::into),
        when_unready: if args.force {
            WhenUnready::Force
        } else {
            WhenUnready::Refuse
        },
        caller: Some(CallerVariables::new(salt(), std::env::vars_os())),
    };
    if args.dry_run {
        diff::show(cx, &request, args.output).await?;
        return Ok(Exit::Done);
    }
    let answer = match while_one_goes(cx, &request).await {
        Err(ClientError::NoDaemon { .. }) => {
            // A file that is wrong is told before anything is started for it.
            cx.host.check(&Question {
                sources: &request.sources,
                namespace: request.namespace.as_ref(),
                orchestrator: request.orchestrator,
                style: cx.out.look().style,
            })?;
            spawn::daemon(&cx.client, &daemon_options(cx)).await?;
            cx.client.apply(&request).await?
        }
        other => other?,
    };
    report(cx, &answer, args.output)?;
    if cx.out.is_terminal() && args.output == TextOrJson::Text {
        cx.out.flush()?;
        tell_what_follows(&request, &args);
    }
    if args.wait {
        // What is known so far is worth seeing while one waits.
        cx.out.flush()?;
        let goal = Goal::Applied(answer.pipelines.clone());
        wait::until(&cx.client, &goal, args.timeout).await?;
        if args.output == TextOrJson::Text {
            for pipeline in &answer.pipelines {
                cx.out.put(&arrived(pipeline))?;
            }
        }
    }
    Ok(Exit::Done)
}

/// Says what a person may not expect: that each save is applied from now on.
fn tell_what_follows(request: &ApplyRequest, args: &args::Apply) {
    let files: Vec<String> = request
        .sources
        .iter()
        .filter_map(|source| match source {
            SourceInput::File(path) => Some(shown(path)),
            SourceInput::Text { .. } => None,
        })
        .collect();
    if request.watch == Watching::Yes && !files.is_empty() {
        tell(&format!(
            "watching {}: each save is applied (`--no-watch` leaves it at this)",
            files.join(", ")
        ));
    }
    if !args.wait {
        tell("see it with `flowctl status -w`");
    }
}

/// Applies. A daemon that has taken everything down applies nothing more: its end is waited for,
/// and [`ClientError::NoDaemon`] is the answer then, unless somebody has started the next one.
async fn while_one_goes(
    cx: &Context<'_>,
    request: &ApplyRequest,
) -> Result<ApplyAnswer, ClientError> {
    let deadline = Instant::now() + GOING;
    let mut told = false;
    loop {
        match cx.client.apply(request).await {
            Err(ClientError::Answer(error))
                if error.code == ErrorCode::ShuttingDown && Instant::now() < deadline =>
            {
                if !std::mem::replace(&mut told, true) {
                    tell("the daemon is ending after `flowctl down`; waiting until it is gone");
                }
                sleep(LOOK_AGAIN).await;
            }
            answer => return answer,
        }
    }
}

/// A number that is another one each time.
fn salt() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(())
}

/// What was typed and concerns the daemon; its variables are inherited anyway.
fn daemon_options(cx: &Context<'_>) -> Vec<String> {
    cx.global
        .log
        .as_ref()
        .map(|filter| vec!["--log".to_owned(), filter.clone()])
        .unwrap_or_default()
}

fn report(cx: &mut Context<'_>, answer: &ApplyAnswer, output: TextOrJson) -> Result<(), Failure> {
    if !answer.remarks.rendered.is_empty() {
        tell(answer.remarks.rendered.trim_end());
    }
    match output {
        TextOrJson::Json => {
            let json = serde_json::to_vec(answer).expect("answers have string keys only");
            cx.out.line(&json)?;
        }
        TextOrJson::Text => {
            for pipeline in &answer.pipelines {
                cx.out.put(&line(pipeline))?;
            }
        }
    }
    Ok(())
}

fn line(pipeline: &AppliedPipeline) -> String {
    let AppliedPipeline {
        generation, change, ..
    } = pipeline;
    let moved = match &pipeline.moved_from {
        Some(file) => format!("; no longer watched at {}", shown(file)),
        None => String::new(),
    };
    let mounts = match change {
        ChangeWord::Created | ChangeWord::Changed => host_mounts(&pipeline.host_mounts),
        ChangeWord::Unchanged | ChangeWord::Deleted => String::new(),
    };
    format!(
        "{} {change} (generation {generation}){moved}\n{mounts}",
        pipeline.key()
    )
}

fn arrived(pipeline: &AppliedPipeline) -> String {
    match pipeline.change {
        ChangeWord::Deleted => format!("{} is gone\n", pipeline.key()),
        ChangeWord::Created | ChangeWord::Changed | ChangeWord::Unchanged => {
            format!("{} runs as applied\n", pipeline.key())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::HostMount;
    use crate::model::fixtures::{component, container, pipeline};
    use crate::model::{Generation, Volume, VolumeSource};

    #[test]
    fn what_containers_are_given_of_the_host_is_listed_when_it_is_new() {
        let mut spec = component("a", 1, &[]);
        spec.workload = container();
        let volume = |source, target: &str, read_only| Volume {
            source,
            target: target.to_owned(),
            read_only,
        };
        spec.volumes = vec![
            volume(VolumeSource::Bind("/etc/hosts".into()), "/hosts", true),
            volume(VolumeSource::Named("kept".to_owned()), "/kept", false),
            volume(VolumeSource::Bind("/srv/\u{1b}[2J".into()), "/out", false),
        ];
        let pipeline = pipeline(vec![spec, component("b", 1, &[])]);
        let applied = |change| {
            line(&AppliedPipeline {
                namespace: pipeline.key.namespace.clone(),
                name: pipeline.key.name.clone(),
                generation: Generation(3),
                change,
                moved_from: None,
                host_mounts: HostMount::all_of(&pipeline),
            })
        };
        let first = format!("{} changed (generation 3)\n", pipeline.key);
        assert_eq!(
            applied(ChangeWord::Changed),
            first
                + "  a mounts /etc/hosts of the host at /hosts, to read\n  \
                 a mounts /srv/\\u{1b}[2J of the host at /out, to write\n"
        );
        let unchanged = applied(ChangeWord::Unchanged);
        assert_eq!(unchanged.lines().count(), 1, "{unchanged}");
    }
}
