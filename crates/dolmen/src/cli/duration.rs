//! Durations on the command line, as fio's users write them.

use std::time::Duration;

/// The longest. Seconds.
const MAX_SECONDS: f64 = 30.0 * 86_400.0;

/// Seconds, or a number with a unit.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let wrong = || "write seconds, or a number and us, ms, s, m or h, as in 30s".to_string();
    let factor = match text[split..].trim() {
        "" | "s" => 1.0,
        "us" => 1e-6,
        "ms" => 1e-3,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(wrong()),
    };
    match text[..split].parse::<f64>() {
        Ok(number) if number * factor <= MAX_SECONDS => Ok(Duration::from_secs_f64(number * factor)),
        Ok(_) => Err("at most 30 days".into()),
        Err(_) => Err(wrong()),
    }
}

/// The same in whole milliseconds; `None` for `never`.
pub(super) fn milliseconds_or_never(text: &str) -> Result<Span, String> {
    if text == "never" {
        return Ok(Span(None));
    }
    let ms = u64::try_from(duration(text)?.as_millis()).map_err(|why| why.to_string())?;
    if ms == 0 { Err("at least 1ms, or never".into()) } else { Ok(Span(Some(ms))) }
}

/// A time that may be for ever. Milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub(super) Option<u64>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_fio_users_write_them() {
        assert_eq!(duration("30"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("250us"), Ok(Duration::from_micros(250)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["", "s", "-1", "1x", "1e9h"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        assert_eq!(milliseconds_or_never("10m"), Ok(Span(Some(600_000))));
        assert_eq!(milliseconds_or_never("never"), Ok(Span(None)));
        assert!(milliseconds_or_never("0").is_err() && milliseconds_or_never("always").is_err());
    }
}
