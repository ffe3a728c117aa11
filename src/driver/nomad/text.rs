//! Texts that reach a program as they are, whatever Nomad would put in their place. Pure.

/// `text` for the configuration of a task, whose strings are templates of HCL's: `${` and `%{` begin
/// something there, unless the sign before them is written as what it stands for.
pub(super) fn in_config(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['$', '%']) {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let after = from.trim_start_matches(['$', '%']);
        let signs = &from[..from.len() - after.len()];
        for sign in signs.chars() {
            if after.starts_with('{') {
                // `$${` would be another way to write it, which reads on where more signs are before.
                out.push_str("${\"");
                out.push(sign);
                out.push_str("\"}");
            } else {
                out.push(sign);
            }
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

/// Whether Nomad would put something else in the place of a part of `value`, as a variable's value.
pub(super) fn is_replaced(value: &str) -> bool {
    value.contains("${")
}

/// A line that sets a variable in a file of them, as Nomad reads that.
pub(super) fn assignment(name: &str, value: &str) -> String {
    format!("{name}={}\n", serde_json::Value::from(value))
}

/// Whether such a line can set this variable.
pub(super) fn is_assignable(name: &str) -> bool {
    let mut letters = name.bytes();
    let first = letters.next();
    first.is_some_and(|it| it.is_ascii_alphabetic() || it == b'_')
        && letters.all(|it| it.is_ascii_alphanumeric() || b"_./".contains(&it))
}

/// Two signs that begin and end what is replaced in a template, which `content` does not hold.
pub(super) fn fences(content: &str) -> (String, String) {
    let mut sign = "~".to_owned();
    loop {
        let fences = (format!("<{sign}("), format!("){sign}>"));
        if !content.contains(&fences.0) && !content.contains(&fences.1) {
            return fences;
        }
        sign.push('~');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_begin_a_template_is_written_as_what_it_stands_for() {
        for (text, written) in [
            ("plain $HOME 100% $(x)", "plain $HOME 100% $(x)"),
            ("${x}", r#"${"$"}{x}"#),
            ("%{if}", r#"${"%"}{if}"#),
            ("$${x}", r#"${"$"}${"$"}{x}"#),
            ("a$%{b", r#"a${"$"}${"%"}{b"#),
            ("é${", r#"é${"$"}{"#),
        ] {
            assert_eq!(in_config(text), written);
        }
    }

    #[test]
    fn fences_are_none_of_the_content() {
        assert_eq!(fences("a").0, "<~(");
        assert_eq!(fences("a )~> b").0, "<~~(");
    }
}
