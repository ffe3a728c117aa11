//! Quantities as Kubernetes writes them: `100m`, `0.5`, `64Mi`, `1e3`.

/// Why a text is not a quantity: completes "`x`".
#[derive(Debug, PartialEq, Eq)]
pub(super) struct QuantityError {
    pub message: &'static str,
    pub fix: Option<String>,
}

const FORM: &str = "is not a quantity like 100m, 0.5, 64Mi or 2G";

fn refuse<T>(message: &'static str, fix: Option<String>) -> Result<T, QuantityError> {
    Err(QuantityError { message, fix })
}

/// A quantity of cores, in thousandths.
pub(super) fn cpu_millis(text: &str) -> Result<u64, QuantityError> {
    let (number, suffix) = split(text);
    let millis = exact(number, suffix, 1_000)?;
    if matches!(suffix, "" | "m") || suffix.starts_with(['e', 'E']) {
        return match u64::try_from(millis) {
            Ok(0) => refuse(
                "is no CPU at all",
                Some("the least is `1m`, a thousandth of a core".to_owned()),
            ),
            Ok(millis) if millis <= 10_000_000 => Ok(millis),
            _ => refuse(
                "is more than 10,000 cores",
                Some(format!("did you mean `{number}m`?")),
            ),
        };
    }
    refuse(
        "is not an amount of CPU",
        Some("write cores, like `0.5`, or thousandths, like `500m`".to_owned()),
    )
}

/// A quantity of bytes, of at least `least`.
pub(super) fn bytes(text: &str, least: u64) -> Result<u64, QuantityError> {
    let (number, suffix) = split(text);
    if suffix == "m" {
        return refuse(
            "means thousandths of a byte",
            Some(format!("did you mean `{number}Mi`?")),
        );
    }
    let millis = exact(number, suffix, 1_000)?;
    match u64::try_from(millis.div_ceil(1_000)) {
        Ok(bytes) if bytes < least => {
            let meant = suffix.is_empty() && bytes > 0;
            refuse(
                "is too little: it counts bytes",
                meant.then(|| format!("did you mean `{number}Mi`?")),
            )
        }
        Ok(bytes) if bytes <= i64::MAX as u64 => Ok(bytes),
        _ => refuse("is more than any machine has", None),
    }
}

/// `text` as its number and what follows it.
fn split(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    text.split_at(end)
}

/// `number` with its suffix applied, times `scale`, rounded up.
fn exact(number: &str, suffix: &str, scale: u128) -> Result<u128, QuantityError> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = format!("{whole}{fraction}");
    if digits.is_empty() || digits.len() > 15 || fraction.contains('.') {
        return refuse(FORM, None);
    }
    let Ok(digits) = digits.parse::<u128>() else {
        return refuse(FORM, None);
    };
    let mut divisor = 10_u128.pow(u32::try_from(fraction.len()).unwrap_or(15));
    let factor = match suffix {
        "" => 1,
        "m" => {
            divisor *= 1_000;
            1
        }
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "P" => 1_000_000_000_000_000,
        "E" => 1_000_000_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        "Pi" => 1 << 50,
        "Ei" => 1 << 60,
        _ => match suffix
            .strip_prefix(['e', 'E'])
            .and_then(|power| power.parse::<u32>().ok())
        {
            Some(power) if power <= 18 => 10_u128.pow(power),
            _ => return refuse(FORM, unit(number, suffix)),
        },
    };
    // At most 10^15 * 2^60 * 10^3, which is under 2^128.
    Ok((digits * factor * scale).div_ceil(divisor))
}

/// What a person meant by a suffix that Kubernetes does not know.
fn unit(number: &str, suffix: &str) -> Option<String> {
    let letter = suffix.chars().next()?.to_ascii_uppercase();
    let rest: String = suffix
        .chars()
        .skip(1)
        .flat_map(char::to_lowercase)
        .collect();
    let known = "KMGTPE".contains(letter) && matches!(rest.as_str(), "" | "b" | "i" | "ib");
    known.then(|| format!("did you mean `{number}{letter}i`?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_is_read_in_cores_and_thousandths() {
        for (text, millis) in [
            ("100m", 100),
            ("0.5", 500),
            ("2", 2_000),
            ("1e1", 10_000),
            ("1.5", 1_500),
        ] {
            assert_eq!(cpu_millis(text), Ok(millis), "{text}");
        }
        for text in [
            "",
            "0",
            "64Mi",
            "1,5",
            "-1",
            "m",
            "1.2.3",
            "20000",
            "99999999999999999999",
        ] {
            assert!(cpu_millis(text).is_err(), "{text}");
        }
    }

    #[test]
    fn memory_is_read_in_both_kinds_of_thousand() {
        for (text, bytes_) in [
            ("64Mi", 64 << 20),
            ("1G", 1_000_000_000),
            ("0.5Gi", 512 << 20),
            ("128974848", 128_974_848),
        ] {
            assert_eq!(bytes(text, 1), Ok(bytes_), "{text}");
        }
        for (text, fix) in [
            ("64MB", "64Mi"),
            ("64m", "64Mi"),
            ("512", "512Mi"),
            ("1gb", "1Gi"),
            ("7K", "7Ki"),
        ] {
            let error = bytes(text, 1 << 20).unwrap_err();
            assert_eq!(error.fix, Some(format!("did you mean `{fix}`?")), "{text}");
        }
        assert!(bytes("999999999999999999E", 1).is_err());
    }
}
