//! Errors as users read them.

/// An error with its causes, none of them said twice: many errors say their cause themselves.
pub(crate) fn sentence(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string).filter(|cause| !cause.is_empty()) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn no_cause_is_said_twice() {
        let error = anyhow!("no such file").context("read a: no such file").context("start");
        assert_eq!(sentence(&error), "start: read a: no such file");
        assert_eq!(sentence(&anyhow!("no such file").context("start")), "start: no such file");
    }
}
