//! Patterns for names: `*` stands for any characters, `?` for one.

use std::fmt;

use serde::{Serialize, Serializer};

/// A pattern that a whole name matches or does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob(String);

impl Glob {
    /// A pattern. Everything but `*` and `?` stands for itself.
    #[must_use]
    pub fn new(pattern: impl Into<String>) -> Self {
        Self(pattern.into())
    }

    /// Whether all of `name` fits. Takes time in the product of both lengths at most: after a
    /// mismatch only the last `*` can still give way (the usual two-pointer match).
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let (mut pattern, mut rest) = (self.0.as_str(), name);
        // What followed the last star, and where the name stood when it took nothing.
        let mut star: Option<(&str, &str)> = None;
        loop {
            let mut after = pattern.chars();
            let step = after.next();
            if step == Some('*') {
                pattern = after.as_str();
                star = Some((pattern, rest));
                continue;
            }
            let mut ahead = rest.chars();
            match (step, ahead.next()) {
                (None, None) => return true,
                (Some(want), Some(have)) if want == '?' || want == have => {
                    (pattern, rest) = (after.as_str(), ahead.as_str());
                }
                _ => {
                    let Some((tail, from)) = star else {
                        return false;
                    };
                    let mut longer = from.chars();
                    if longer.next().is_none() {
                        return false;
                    }
                    (pattern, rest) = (tail, longer.as_str());
                    star = Some((tail, rest));
                }
            }
        }
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl From<String> for Glob {
    fn from(pattern: String) -> Self {
        Self(pattern)
    }
}

impl Serialize for Glob {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_or_do_not() {
        for (pattern, name, fits) in [
            ("*", "", true),
            ("*", "vm1.img", true),
            ("vm?.img", "vm1.img", true),
            ("vm?.img", "vm.img", false),
            ("vm?.img", "vm10.img", false),
            ("vm*.img", "vm.img", true),
            ("*.img", "a.img.img", true),
            ("*.img", "a.img.old", false),
            ("a*b*c", "axxbxbxc", true),
            ("a*b*c", "axxbxbx", false),
            ("**a", "bba", true),
            ("db", "db", true),
            ("db", "db2", false),
            ("?", "ü", true),
            ("*ü?", "grün", true),
            ("", "", true),
            ("", "a", false),
            ("[a]", "a", false),
        ] {
            assert_eq!(Glob::new(pattern).matches(name), fits, "{pattern} {name}");
        }
    }

    #[test]
    fn many_stars_take_no_longer_than_the_product() {
        let pattern = "a*".repeat(100) + "b";
        assert!(!Glob::new(pattern).matches(&"a".repeat(250)));
    }
}
