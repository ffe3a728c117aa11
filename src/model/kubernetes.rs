//! Names of a cluster's objects that more than one room has to know: what a manifest tells one component
//! of another is what the driver calls the Service.

use ring::digest;

use super::ids::{ComponentId, Namespace, PipelineKey};

/// The longest name of an object that ends up in a label or a host name.
const LONGEST: usize = 63;

/// The name of the Service by which the component is reached: `PIPELINE-COMPONENT`, with the namespace
/// in front of it where that is not `default`. It is a DNS label that begins with a letter.
pub fn service_name(pipeline: &PipelineKey, component: &ComponentId) -> String {
    fitted(&stem(pipeline, component.as_str()), LONGEST)
}

/// The host by which its Service is reached from other pods: in the cluster's namespace `namespace`,
/// where the file names one, else in that of whoever asks.
pub fn service_host(
    pipeline: &PipelineKey,
    component: &ComponentId,
    namespace: Option<&str>,
) -> String {
    let name = service_name(pipeline, component);
    match namespace {
        Some(namespace) => format!("{name}.{namespace}.svc"),
        None => name,
    }
}

/// `PIPELINE-rest`, with the namespace in front of it where that is not `default`.
pub fn stem(pipeline: &PipelineKey, rest: &str) -> String {
    let PipelineKey { namespace, name } = pipeline;
    if *namespace == Namespace::default() {
        format!("{name}-{rest}")
    } else {
        format!("{namespace}-{name}-{rest}")
    }
}

/// `name` as a DNS label of at most `longest` characters that begins with a letter. One that is cut ends
/// with a digest of the whole, so that two that begin alike stay two.
pub fn fitted(name: &str, longest: usize) -> String {
    let name = match name.starts_with(|first: char| first.is_ascii_alphabetic()) {
        true => name.to_owned(),
        false => format!("f-{name}"),
    };
    if name.len() <= longest {
        return name;
    }
    let end = short(&[&name]);
    let kept = name.get(..longest.saturating_sub(end.len() + 1));
    format!("{}-{end}", kept.unwrap_or_default().trim_end_matches('-'))
}

/// Five letters and digits that stand for `parts` in a name.
pub fn short(parts: &[&str]) -> String {
    let mut text = digest_of(parts);
    text.truncate(5);
    text
}

/// A digest of `parts`, each by itself, in lower-case letters and digits that read like no word.
pub fn digest_of(parts: &[&str]) -> String {
    /// Those of the cluster's own generated names: without vowels.
    const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part.as_bytes());
    }
    let digest = context.finish();
    let letter = |byte: &u8| char::from(LETTERS[usize::from(*byte) % LETTERS.len()]);
    digest.as_ref()[..16].iter().map(letter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipeline(namespace: &str, name: &str) -> PipelineKey {
        PipelineKey {
            namespace: namespace.parse().unwrap(),
            name: name.parse().unwrap(),
        }
    }

    #[test]
    fn the_name_of_a_service_is_what_a_person_would_guess() {
        let component = "ttp-processor".parse().unwrap();
        let name = |namespace| service_name(&pipeline(namespace, "ttp"), &component);
        assert_eq!(name("default"), "ttp-ttp-processor");
        assert_eq!(name("team-a"), "team-a-ttp-ttp-processor");
        let host = service_host(&pipeline("default", "ttp"), &component, Some("data"));
        assert_eq!(host, "ttp-ttp-processor.data.svc");
    }

    #[test]
    fn every_name_is_a_dns_label_that_begins_with_a_letter() {
        let long = "x".repeat(63);
        for (name, component) in [("9", "0"), (&*long, "a"), ("a", &*long), (&*long, &*long)] {
            let component = component.parse().unwrap();
            let made = service_name(&pipeline("default", name), &component);
            assert!(made.len() <= 63, "{made}");
            assert!(made.starts_with(|first: char| first.is_ascii_alphabetic()));
            let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            assert!(made.chars().all(fits), "{made}");
            assert!(!made.ends_with('-'), "{made}");
        }
    }

    #[test]
    fn two_long_names_that_begin_alike_stay_two() {
        let name = |end: &str| {
            let component = format!("{}{end}", "x".repeat(60)).parse().unwrap();
            service_name(&pipeline("default", "p"), &component)
        };
        assert_ne!(name("a"), name("b"));
    }
}
