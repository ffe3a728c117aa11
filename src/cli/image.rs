//! `flowctl image`: which images may run, and why.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::args::{Image, ImageVerb, TextOrJson};
use super::exit::{Exit, Failure};
use super::out::tell;
use super::text::{Style, clean};
use super::{Stateless, asking};
use crate::api::{ApiError, ErrorCode};
use crate::images::{
    Gate, Loaded, Question, Refused, Ruling, Runs, Standing, in_words, load, rule,
};
use crate::manifest::{self, Colour, Severity};
use crate::model::image::ImageName;

/// What is known of an image.
#[derive(Serialize)]
struct Answer {
    image: String,
    /// Its repository in full.
    repository: Option<String>,
    allowed: bool,
    /// The line of the policy that decides.
    rule: Option<String>,
    /// What must hold, where that was not looked at.
    must: Vec<String>,
    /// What runs.
    digest: Option<String>,
    reason: Option<&'static str>,
    message: Option<String>,
}

pub(super) fn run(cx: &mut Stateless<'_>, args: Image) -> Result<Exit, Failure> {
    let colour = match cx.out.look().style {
        Style::Plain => Colour::Off,
        Style::Coloured => Colour::On,
    };
    let file = args.image_policy.as_deref();
    let policy = file.map(|file| usable(file, colour)).transpose()?;
    let answers = match args.verb {
        ImageVerb::Pin { files } => return pin(cx, policy.as_ref(), &files),
        ImageVerb::Check { images } => {
            let policy = policy.ok_or_else(which)?;
            images.iter().map(|image| check(image, &policy)).collect()
        }
        ImageVerb::Verify { images } => {
            let file = file.ok_or_else(which)?;
            asking(verify(file, &images))?
        }
    };
    show(cx, args.output, &answers)
}

fn which() -> Failure {
    Failure::Usage(
        "which policy? name it with --image-policy FILE; without one every image may run"
            .to_owned(),
    )
}

fn usable(file: &Path, colour: Colour) -> Result<Loaded, Failure> {
    let file = super::place::absolute(file)?;
    let loaded = load(&file).map_err(|problems| {
        let rows = problems.rows(Severity::Error, Some(&file));
        Failure::Told(ApiError::manifest(problems.render(colour), rows))
    })?;
    if !loaded.warnings.is_empty() {
        tell(loaded.warnings.render(colour).trim_end());
    }
    Ok(loaded)
}

/// What the policy says of a name.
fn check(image: &str, policy: &Loaded) -> Answer {
    let name = match image.parse::<ImageName>() {
        Ok(name) => name,
        Err(error) => {
            let refused = format!("image {image} is refused, since its name is not clear: {error}");
            return no(
                image,
                None,
                &Refused::new(crate::images::Reason::NotAllowed, refused),
            );
        }
    };
    let repository = Some(name.repository.to_string());
    let (place, must) = match rule(image, &name, Some(policy), None) {
        Err(refused) => return no(image, repository, &refused),
        Ok(Ruling::Unruled { place }) => (place, Vec::new()),
        Ok(Ruling::Local { place }) => (place, vec!["be on this host".to_owned()]),
        Ok(Ruling::Demands(demands)) => {
            let places: Vec<&str> = demands.iter().map(|it| it.place.as_str()).collect();
            let must = demands.iter().flat_map(|it| in_words(it.need)).collect();
            (places.join(", "), must)
        }
    };
    Answer {
        image: image.to_owned(),
        repository,
        allowed: true,
        rule: Some(place),
        must,
        digest: name.digest.map(|digest| digest.to_string()),
        reason: None,
        message: None,
    }
}

fn no(image: &str, repository: Option<String>, refused: &Refused) -> Answer {
    Answer {
        image: image.to_owned(),
        repository,
        allowed: false,
        rule: None,
        must: Vec::new(),
        digest: None,
        reason: Some(refused.reason.word()),
        message: Some(refused.message.clone()),
    }
}

/// What a start would find out.
async fn verify(file: &Path, images: &[String]) -> Result<Vec<Answer>, Failure> {
    let gate = Gate::open();
    let file = super::place::absolute(file)?;
    // It was read a moment ago; where that changed, each answer says so.
    gate.begin(&file).ok();
    let mut answers = Vec::new();
    for image in images {
        let question = Question {
            image,
            besides: None,
            standing: Standing::Fresh,
        };
        let name = image.parse::<ImageName>().ok();
        let repository = name.map(|name| name.repository.to_string());
        answers.push(match gate.admit(question, &|said| tell(&said)).await {
            Err(refused) => no(image, repository, &refused),
            Ok(admitted) => Answer {
                image: image.clone(),
                repository,
                allowed: true,
                rule: admitted.verdict().map(|verdict| verdict.place.clone()),
                must: Vec::new(),
                digest: match admitted.runs() {
                    Runs::Exactly(_, digest) => Some(digest.to_string()),
                    Runs::AsWritten(_) | Runs::Local(_) => None,
                },
                reason: None,
                message: admitted.verdict().map(|verdict| verdict.found.clone()),
            },
        });
    }
    Ok(answers)
}

fn show(cx: &mut Stateless<'_>, output: TextOrJson, answers: &[Answer]) -> Result<Exit, Failure> {
    match output {
        TextOrJson::Json => {
            let json = serde_json::to_vec(answers).expect("it has string keys only");
            cx.out.line(&json)?;
        }
        TextOrJson::Text => {
            for answer in answers {
                cx.out.line(in_text(answer).as_bytes())?;
            }
        }
    }
    Ok(match answers.iter().all(|answer| answer.allowed) {
        true => Exit::Done,
        false => Exit::Refused,
    })
}

fn in_text(answer: &Answer) -> String {
    let message = answer.message.as_deref().map(clean);
    if !answer.allowed {
        return format!("refused: {}", message.unwrap_or_default());
    }
    let mut text = format!("{}: ", clean(&answer.image));
    match answer.must.as_slice() {
        [] => text.push_str("it may run"),
        must => text.push_str(&format!("it may run; it must {}", must.join(", and "))),
    }
    if let Some(rule) = &answer.rule {
        text.push_str(&format!(" ({})", clean(rule)));
    }
    if let Some(message) = message {
        text.push_str(&format!(": {message}"));
    }
    text
}

/// Writes digests into files.
fn pin(
    cx: &mut Stateless<'_>,
    policy: Option<&Loaded>,
    files: &[PathBuf],
) -> Result<Exit, Failure> {
    let registries = policy.map(|loaded| loaded.policy.registries.clone());
    let registries = registries.unwrap_or_default();
    let mut digests: BTreeMap<String, String> = BTreeMap::new();
    for file in files {
        let failed = |operation| {
            let path = file.clone();
            move |source| Failure::File {
                operation,
                path,
                source,
            }
        };
        let text = fs::read(file).map_err(failed("read"))?;
        let places = manifest::images(&file.to_string_lossy(), &text).map_err(|problems| {
            let rows = problems.rows(Severity::Error, Some(file));
            Failure::Told(ApiError::manifest(problems.render(Colour::Off), rows))
        })?;
        let mut pinned = Vec::new();
        for place in &places {
            let name: ImageName = match place.image.parse() {
                Ok(name) => name,
                Err(error) => {
                    let why = format!("{}: {error}", place.image);
                    return Err(Failure::Told(ApiError::new(ErrorCode::Refused, why)));
                }
            };
            if name.digest.is_some() {
                continue;
            }
            let known = digests.get(&place.image).cloned();
            let digest = match known {
                Some(digest) => digest,
                None => {
                    let asked = crate::images::resolve(&place.image, &name, &registries);
                    let digest = asking(async { asked.await.map_err(refused) })?.to_string();
                    digests.insert(place.image.clone(), digest.clone());
                    digest
                }
            };
            pinned.push((place.clone(), format!("{}@{digest}", place.image)));
        }
        if !pinned.is_empty() {
            let new = manifest::with_images(&text, &pinned);
            replace(file, &new).map_err(failed("write"))?;
        }
        for (place, new) in &pinned {
            let line = format!("{}:{}: {}", file.display(), place.line, new);
            cx.out.line(clean(&line).as_bytes())?;
        }
        if pinned.is_empty() {
            let line = format!("{}: nothing to pin", file.display());
            cx.out.line(clean(&line).as_bytes())?;
        }
    }
    Ok(Exit::Done)
}

fn refused(refused: Refused) -> Failure {
    Failure::Told(ApiError::new(ErrorCode::Refused, refused.message))
}

/// Puts another text in a file's place, as editors do: nobody sees half of it.
fn replace(file: &Path, text: &[u8]) -> std::io::Result<()> {
    let file = fs::canonicalize(file)?;
    let name = file
        .file_name()
        .unwrap_or(file.as_os_str())
        .to_string_lossy();
    let beside = file.with_file_name(format!(".{name}.{}", std::process::id()));
    let permissions = fs::metadata(&file)?.permissions();
    // Where others may write, they could have put a link there, to what they may not write.
    let mut new = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&beside)?;
    let written = new
        .write_all(text)
        .and_then(|()| new.set_permissions(permissions))
        .and_then(|()| fs::rename(&beside, &file));
    if written.is_err() {
        // Nothing is left of a failed try; why it failed is told.
        fs::remove_file(&beside).ok();
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_nothing_is_written_through_a_link_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let [file, victim] = ["p.yaml", "victim"].map(at);
        fs::write(&file, "old").unwrap();
        fs::write(&victim, "mine").unwrap();
        replace(&file, b"new").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        let beside = at(&format!(".p.yaml.{}", std::process::id()));
        std::os::unix::fs::symlink(&victim, beside).unwrap();
        assert!(replace(&file, b"newer").is_err());
        assert_eq!(fs::read_to_string(&victim).unwrap(), "mine");
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
    }
}
