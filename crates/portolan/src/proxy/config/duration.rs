//! Durations as Go writes them: `1h30m`, `250ms`, `0s`.

use std::fmt;
use std::time::Duration;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A duration with its text, which is written as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GoDuration {
    text: String,
    /// `None` below zero.
    value: Option<Duration>,
}

impl GoDuration {
    /// The duration; `None` if it is below zero.
    pub(crate) fn get(&self) -> Option<Duration> {
        self.value
    }

    /// Reads the text of a flag.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        Self::deserialize(serde::de::value::StrDeserializer::<serde::de::value::Error>::new(text))
            .map_err(|error| error.to_string())
    }

    pub(super) fn seconds(seconds: u64) -> Self {
        let text = match seconds {
            0 => "0s".to_owned(),
            seconds if seconds % 3600 == 0 => format!("{}h0m0s", seconds / 3600),
            seconds if seconds % 60 == 0 => format!("{}m0s", seconds / 60),
            seconds => format!("{seconds}s"),
        };
        Self { text, value: Some(Duration::from_secs(seconds)) }
    }
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wrong = || {
            let expected = "a duration is numbers with units, such as 30s, 1m30s or 250ms";
            D::Error::custom(format!("{text:?}: {expected}"))
        };
        match text.strip_prefix('-') {
            Some(rest) => {
                parse(rest).ok_or_else(wrong)?;
                Ok(Self { value: None, text })
            }
            None => {
                let value = Some(parse(&text).ok_or_else(wrong)?);
                Ok(Self { value, text })
            }
        }
    }
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

fn parse(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        seconds += number
            * match &rest[..end] {
                "ns" => 1e-9,
                "us" | "µs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return None,
            };
        rest = &rest[end..];
    }
    (!text.is_empty()).then(|| Duration::try_from_secs_f64(seconds).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, seconds) in [
            ("30s", 30.0),
            ("1h30m", 5400.0),
            ("250ms", 0.25),
            ("1.5h", 5400.0),
            ("0s", 0.0),
            ("0", 0.0),
        ] {
            assert_eq!(parse(text), Some(Duration::from_secs_f64(seconds)), "{text}");
        }
        for wrong in ["", "30", "s", "1x", "1h30", ".s"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
        let read = |text: &str| serde_json::from_value::<GoDuration>(text.into());
        assert_eq!(read("-1s").unwrap().get(), None);
        assert!(read("soon").unwrap_err().to_string().contains("such as 30s"));
        assert_eq!(GoDuration::seconds(86_400).to_string(), "24h0m0s");
    }
}
