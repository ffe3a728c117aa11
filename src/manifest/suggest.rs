//! "Did you mean": the known word that is nearest to one that is not.

/// Longer lists are not searched to the end: the answer must be quick for any file.
const MAX_CANDIDATES: usize = 2_000;

/// The candidate that `written` was probably meant to be.
///
/// Another spelling of the same words (`restartPolicy`, `Restart-Policy`) is nearest, then few
/// typing mistakes, then a word that contains the other.
pub(super) fn nearest<'c>(
    written: &str,
    candidates: impl IntoIterator<Item = &'c str>,
) -> Option<&'c str> {
    if written.is_empty() || written.len() > 64 {
        return None;
    }
    let plain = folded(written);
    let allowed = ((plain.len() + 1) / 3).clamp(1, 3);
    let mut best: Option<(usize, &str)> = None;
    for candidate in candidates.into_iter().take(MAX_CANDIDATES) {
        let other = folded(candidate);
        let contained =
            plain.len().min(other.len()) >= 4 && (other.contains(&plain) || plain.contains(&other));
        let distance = if other.len().abs_diff(plain.len()) <= allowed {
            edits(plain.as_bytes(), other.as_bytes())
        } else {
            usize::MAX
        };
        let rank = match distance {
            d if d <= allowed && d < plain.len() => d,
            _ if contained => allowed + 1,
            _ => continue,
        };
        if best.is_none_or(|(known, _)| rank < known) {
            best = Some((rank, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// [`nearest`] as the words of a fix.
pub(super) fn did_you_mean<'c>(
    written: &str,
    candidates: impl IntoIterator<Item = &'c str>,
) -> Option<String> {
    nearest(written, candidates).map(|near| format!("did you mean `{near}`?"))
}

/// Without case and separators, in which spellings of one name differ.
fn folded(text: &str) -> String {
    text.chars()
        .filter(|c| !matches!(c, '_' | '-' | ' ' | '.'))
        .flat_map(char::to_lowercase)
        .collect()
}

/// Optimal string alignment: insertions, deletions, replacements and swaps of neighbours.
fn edits(a: &[u8], b: &[u8]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replace = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replace.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

/// The nearest DNS label to `text`: what to write for a name that is none.
pub(super) fn label(text: &str) -> Option<String> {
    let dashed: String = text
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_lowercase()
            } else {
                '-'
            }
        })
        .collect();
    let words: Vec<&str> = dashed.split('-').filter(|word| !word.is_empty()).collect();
    let label: String = words.join("-").chars().take(63).collect();
    let label = label.trim_end_matches('-');
    (!label.is_empty()).then(|| label.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_mistakes_and_other_spellings_find_the_word_that_was_meant() {
        let known = [
            "inputs",
            "image",
            "restart_policy",
            "initial_delay",
            "env",
            "id",
        ];
        for (written, meant) in [
            ("input", Some("inputs")),
            ("imgae", Some("image")),
            ("restartPolicy", Some("restart_policy")),
            ("delay", Some("initial_delay")),
            ("envs", Some("env")),
            ("zebra", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(nearest(written, known), meant, "{written}");
        }
    }

    #[test]
    fn any_name_has_a_label_near_it() {
        assert_eq!(label("My_Pipeline (v2)").as_deref(), Some("my-pipeline-v2"));
        assert_eq!(label("ü").as_deref(), None);
    }
}
