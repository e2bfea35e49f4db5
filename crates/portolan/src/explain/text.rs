//! An explanation for people.

use std::fmt;

use super::{Explanation, Stage, Verdict};

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = match self.verdict {
            Verdict::Reaches => "reaches an endpoint",
            Verdict::Refused => "is refused",
            Verdict::Lost => "is lost: nobody answers, and the client waits",
            Verdict::NotTouched => "is no Service's: routes and hosts decide",
            Verdict::NoSuchName => "does not begin",
        };
        writeln!(f, "from {} to {}: {end}", self.from, self.to)?;
        if let Some(cause) = &self.cause {
            writeln!(f, "  why: {} [{}]", cause.text, cause.code)?;
            writeln!(f, "  hint: {}", cause.advice)?;
        }
        for step in &self.steps {
            let stage = match step.stage {
                Stage::Name => "name",
                Stage::Origin => "origin",
                Stage::Frontend => "frontend",
                Stage::Policy => "policy",
                Stage::Endpoints => "endpoints",
                Stage::Source => "source",
                Stage::WayBack => "way back",
                Stage::Proxy => "proxy",
                Stage::Kernel => "kernel",
            };
            writeln!(f, "  {stage:<10} {}", step.text)?;
            for detail in &step.details {
                writeln!(f, "  {:<10}   {detail}", "")?;
            }
        }
        Ok(())
    }
}
