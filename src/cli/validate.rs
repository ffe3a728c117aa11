//! `flowctl validate`.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::args::{TextOrJson, Validate};
use super::describe::host_mounts;
use super::exit::{Exit, Failure};
use super::host::{Approved, Question};
use super::out::tell;
use super::sources::{PATIENCE, gather};
use super::text::{Style, shown};
use super::{Stateless, asking};
use crate::api::{ApiError, HostMount, SourceInput};
use crate::driver::process;
use crate::images;
use crate::manifest::{self, Colour, Problems, Severity};
use crate::model::{Problem, Workload};
use crate::notify::look;

pub(super) fn run(cx: &mut Stateless<'_>, args: Validate) -> Result<Exit, Failure> {
    let sources = asking(gather(args.files.all(), PATIENCE))?;
    let (policies, sources): (Vec<_>, Vec<_>) = sources.into_iter().partition(is_policy);
    let (notify, sources): (Vec<_>, Vec<_>) = sources.into_iter().partition(is_notify);
    let mut found = Vec::new();
    for source in &notify {
        let (name, problems) = check_notify(source)?;
        found.push((name, "a notification file", problems));
    }
    for source in &policies {
        let (name, problems) = check_policy(source);
        found.push((name, "an image policy", problems));
    }
    let is_bad = found
        .iter()
        .any(|(_, _, problems)| problems.errors().next().is_some());
    if !found.is_empty() && (sources.is_empty() || is_bad) {
        return tell_of_notify(cx, &args, &found, is_bad);
    }
    if let TextOrJson::Text = args.output {
        for (name, what, _) in &found {
            cx.out.put(&format!("{name}: valid; {what}\n"))?;
        }
    }
    let checked = cx.host.check(&Question {
        sources: &sources,
        namespace: cx.global.namespace.as_ref(),
        orchestrator: args.orchestrator.map(Into::into),
        style: cx.out.look().style,
    });
    let checked = checked.and_then(|approved| refuse_files(&sources, approved));
    let checked = checked.map(|approved| warn_of_notify(&sources, approved));
    let checked = match (checked, &args.image_policy) {
        (Ok(mut approved), Some(file)) => {
            warn_of_images(file, &sources, &mut approved);
            Ok(approved)
        }
        (checked, _) => checked,
    };
    match (checked, args.output) {
        (Ok(approved), TextOrJson::Text) => {
            if !approved.remarks.rendered.is_empty() {
                tell(approved.remarks.rendered.trim_end());
            }
            cx.out.put(&summary(&sources, &approved))?;
            Ok(judged(&args, approved.remarks.warnings.len()))
        }
        (Ok(approved), TextOrJson::Json) => {
            let warnings = &approved.remarks.warnings;
            let answer = json!({ "valid": true, "problems": [], "warnings": warnings });
            cx.out.line(answer.to_string().as_bytes())?;
            Ok(judged(&args, warnings.len()))
        }
        (Err(Failure::Told(error)), TextOrJson::Json) if !error.problems.is_empty() => {
            let (problems, warnings) = (&error.problems, &error.warnings);
            let answer = json!({ "valid": false, "problems": problems, "warnings": warnings });
            cx.out.line(answer.to_string().as_bytes())?;
            Ok(Failure::Told(error).exit())
        }
        (Err(failure), _) => Err(failure),
    }
}

/// Whether a source is a notification file. What cannot be read is told of with the manifests.
fn is_notify(source: &SourceInput) -> bool {
    match source {
        SourceInput::File(path) => {
            look(path).is_ok_and(|text| manifest::is_notify(text.as_bytes()))
        }
        SourceInput::Text { text, .. } => manifest::is_notify(text.as_bytes()),
    }
}

/// Whether a source is an image policy. Its keys are files too, so one without a folder is none.
fn is_policy(source: &SourceInput) -> bool {
    match source {
        SourceInput::File(path) => {
            look(path).is_ok_and(|text| manifest::is_image_policy(text.as_bytes()))
        }
        SourceInput::Text { .. } => false,
    }
}

/// An image policy's name, and what is wrong with it.
fn check_policy(source: &SourceInput) -> (String, Problems) {
    let SourceInput::File(path) = source else {
        let name = "standard input".to_owned();
        let why = "an image policy is a file, beside which its keys lie";
        return (name.clone(), Problems::whole_file(&name, why, None));
    };
    let problems = match images::load(path) {
        Ok(loaded) => loaded.warnings,
        Err(problems) => problems,
    };
    (path.display().to_string(), problems)
}

/// A notification file's name, and what is wrong with it.
fn check_notify(source: &SourceInput) -> Result<(String, Problems), Failure> {
    let (name, text, base) = match source {
        SourceInput::File(path) => {
            let text =
                look(path).map_err(|why| Failure::Usage(format!("{} {why}", path.display())))?;
            (path.display().to_string(), text, path.parent())
        }
        SourceInput::Text { text, name, .. } => {
            let name = name.clone().unwrap_or_else(|| "standard input".to_owned());
            (name, text.clone(), None)
        }
    };
    let readable = |path: &Path| look(path).map(|_| ());
    let base = base.unwrap_or(Path::new("/"));
    let parsed = manifest::parse_notify(&name, text.as_bytes(), base, &readable);
    let problems = match parsed {
        Ok(parsed) => parsed.warnings,
        Err(problems) => problems,
    };
    Ok((name, problems))
}

fn tell_of_notify(
    cx: &mut Stateless<'_>,
    args: &Validate,
    found: &[(String, &str, Problems)],
    is_bad: bool,
) -> Result<Exit, Failure> {
    let colour = match cx.out.look().style {
        Style::Plain => Colour::Off,
        Style::Coloured => Colour::On,
    };
    match args.output {
        TextOrJson::Json => {
            let rows = |severity| {
                let all = found
                    .iter()
                    .flat_map(|(name, _, problems)| problems.rows(severity, Some(Path::new(name))));
                all.collect::<Vec<_>>()
            };
            let answer = json!({
                "valid": !is_bad,
                "problems": rows(Severity::Error),
                "warnings": rows(Severity::Warning),
            });
            cx.out.line(answer.to_string().as_bytes())?;
        }
        TextOrJson::Text => {
            for (name, what, problems) in found {
                if !problems.is_empty() {
                    tell(problems.render(colour).trim_end());
                }
                if problems.errors().next().is_none() {
                    cx.out.put(&format!("{name}: valid; {what}\n"))?;
                }
            }
        }
    }
    if is_bad {
        return Ok(Exit::ManifestInvalid);
    }
    let warned = found.iter().filter(|(_, _, problems)| !problems.is_empty());
    Ok(judged(args, warned.count()))
}

/// How it ends where nothing is wrong.
fn judged(args: &Validate, warnings: usize) -> Exit {
    if warnings > 0 && args.deny_warnings {
        tell("error: there are warnings, and --deny-warnings");
        return Exit::ManifestInvalid;
    }
    Exit::Done
}

/// Refuses what names files that are never given to a component.
fn refuse_files(sources: &[SourceInput], approved: Approved) -> Result<Approved, Failure> {
    let mut problems = Vec::new();
    for (index, spec) in &approved.pipelines {
        for component in spec.components.values() {
            for why in process::refused_files(component) {
                problems.push(Problem {
                    file: file_of(sources, *index),
                    line: None,
                    column: None,
                    message: format!("{}/{}: {why}", spec.key, component.id),
                });
            }
        }
    }
    if problems.is_empty() {
        return Ok(approved);
    }
    let rendered: Vec<String> = problems
        .iter()
        .map(|problem| format!("error: {}", problem.message))
        .collect();
    let refused = ApiError::manifest(rendered.join("\n"), problems);
    let warnings = approved.remarks.warnings;
    Err(Failure::Told(refused.with_warnings(warnings)))
}

/// The file of a source; `None` for a text without one.
fn file_of(sources: &[SourceInput], index: usize) -> Option<PathBuf> {
    match sources.get(index) {
        Some(SourceInput::File(path)) => Some(path.clone()),
        Some(SourceInput::Text { .. }) | None => None,
    }
}

/// Adds what the image policy would not let run, as far as names tell.
fn warn_of_images(file: &Path, sources: &[SourceInput], approved: &mut Approved) {
    let policy = super::place::absolute(file)
        .ok()
        .map(|file| images::load(&file));
    let mut found = Vec::new();
    match policy {
        None => {}
        Some(Err(problems)) => found.push((None, format!("{problems}"))),
        Some(Ok(policy)) => {
            for (index, spec) in &approved.pipelines {
                let path = file_of(sources, *index);
                for component in spec.components.values() {
                    let Workload::Docker(container) = &component.workload else {
                        continue;
                    };
                    let image = container.image.as_str();
                    let why = match image.parse() {
                        Ok(name) => {
                            let besides = container.verify.as_ref();
                            let ruled = images::rule(image, &name, Some(&policy), besides);
                            ruled.err().map(|refused| refused.message)
                        }
                        Err(error) => Some(format!("image {image} has no clear name: {error}")),
                    };
                    found.extend(why.map(|why| (path.clone(), format!("{}: {why}", component.id))));
                }
            }
        }
    }
    for (file, message) in found {
        approved.remarks.warn(file, message);
    }
}

/// Tells which files of `spec.notify` cannot be read here: a message would find that out, too late.
fn warn_of_notify(sources: &[SourceInput], mut approved: Approved) -> Approved {
    let mut found = Vec::new();
    for (index, spec) in &approved.pipelines {
        for target in &spec.notify {
            for path in target.files() {
                if let Err(why) = look(path) {
                    let message = format!("spec.notify `{}`: {} {why}", target.name, shown(path));
                    found.push((file_of(sources, *index), message));
                }
            }
        }
    }
    for (file, message) in found {
        approved.remarks.warn(file, message);
    }
    approved
}

/// `pipeline.yaml: valid; pipeline ttp with 3 components`, a line per pipeline, and what each mounts of
/// the host.
fn summary(sources: &[SourceInput], approved: &Approved) -> String {
    approved
        .pipelines
        .iter()
        .map(|(index, spec)| {
            let source = match sources.get(*index) {
                Some(SourceInput::File(path)) => path.display().to_string(),
                Some(SourceInput::Text {
                    name: Some(name), ..
                }) => name.clone(),
                Some(SourceInput::Text { name: None, .. }) | None => "standard input".to_owned(),
            };
            let count = spec.components.len();
            let components = if count == 1 {
                "component"
            } else {
                "components"
            };
            format!(
                "{source}: valid; pipeline {} with {count} {components}\n{}",
                spec.key,
                host_mounts(&HostMount::all_of(spec))
            )
        })
        .collect()
}
