//! Keys and values as logins and text requests carry them (RFC 7143, section 6.1): `key=value`,
//! each ended by a zero byte.

/// The most text of one negotiation step, in bytes: several PDUs may make it up.
pub const MAX_TEXT: usize = 16 << 10;
/// The longest key, in bytes.
const MAX_KEY: usize = 63;
/// The longest value that is not declared longer: what CHAP and names need, and more.
const MAX_VALUE: usize = 8 << 10;
/// Keys of one step.
const MAX_PAIRS: usize = 128;

/// Why text is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// It goes on and on.
    #[error("more than {MAX_TEXT} bytes of text in one step")]
    TooLong,
    /// Too many keys.
    #[error("more than {MAX_PAIRS} keys in one step")]
    TooMany,
    /// A pair without a `=`.
    #[error("text without a '='")]
    NoValue,
    /// A key that is empty, too long, or has letters that no key has.
    #[error("a key that is none")]
    Key,
    /// A value that is too long or no UTF-8.
    #[error("the value of {0} is too long, or no UTF-8")]
    Value(String),
    /// A key that stands there twice.
    #[error("the key {0} stands there twice")]
    Twice(String),
}

/// Keys with their values, in the order in which they came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pairs(Vec<(String, String)>);

impl Pairs {
    /// Reads text. Every key counts once.
    ///
    /// # Errors
    /// Where it is none.
    pub fn parse(text: &[u8]) -> Result<Self, TextError> {
        if text.len() > MAX_TEXT {
            return Err(TextError::TooLong);
        }
        let mut pairs = Self::default();
        for pair in text
            .split(|byte| *byte == 0)
            .filter(|pair| !pair.is_empty())
        {
            if pairs.0.len() == MAX_PAIRS {
                return Err(TextError::TooMany);
            }
            let at = pair
                .iter()
                .position(|byte| *byte == b'=')
                .ok_or(TextError::NoValue)?;
            let key = key(&pair[..at])?;
            let value = &pair[at + 1..];
            let value = std::str::from_utf8(value)
                .ok()
                .filter(|value| value.len() <= MAX_VALUE)
                .ok_or_else(|| TextError::Value(key.clone()))?;
            if pairs.get(&key).is_some() {
                return Err(TextError::Twice(key));
            }
            pairs.push(&key, value);
        }
        Ok(pairs)
    }

    /// Adds a pair.
    pub fn push(&mut self, key: &str, value: impl Into<String>) {
        self.0.push((key.to_owned(), value.into()));
    }

    /// The value of a key, if it is there.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        let found = self.0.iter().find(|(of, _)| of == key);
        found.map(|(_, value)| value.as_str())
    }

    /// All pairs, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As bytes, as [`parse`](Self::parse) reads them.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut text = Vec::new();
        for (key, value) in self.iter() {
            text.extend_from_slice(key.as_bytes());
            text.push(b'=');
            text.extend_from_slice(value.as_bytes());
            text.push(0);
        }
        text
    }
}

fn key(bytes: &[u8]) -> Result<String, TextError> {
    let is_letter = |byte: &u8| byte.is_ascii_alphanumeric() || b".-+@_#".contains(byte);
    let fits = (1..=MAX_KEY).contains(&bytes.len()) && bytes.iter().all(is_letter);
    let text = fits.then(|| String::from_utf8_lossy(bytes).into_owned());
    text.ok_or(TextError::Key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_read_as_it_is_written() {
        let text = b"InitiatorName=iqn.x:a=b\0HeaderDigest=CRC32C,None\0Empty=\0";
        let pairs = Pairs::parse(text).unwrap();
        assert_eq!(pairs.get("InitiatorName"), Some("iqn.x:a=b"));
        assert_eq!(pairs.get("Empty"), Some(""));
        assert_eq!(pairs.get("empty"), None, "keys have case");
        assert_eq!(pairs.encode(), text);
        assert_eq!(Pairs::parse(b"\0\0").unwrap(), Pairs::default());
    }

    #[test]
    fn what_is_no_text_is_refused() {
        let of = |text: &[u8]| Pairs::parse(text).unwrap_err();
        assert_eq!(of(b"abc\0"), TextError::NoValue);
        assert_eq!(of(b"=x\0"), TextError::Key);
        assert_eq!(of(b"a b=x\0"), TextError::Key);
        assert_eq!(of(b"a=\xff\0"), TextError::Value("a".to_owned()));
        assert_eq!(of(b"a=1\0a=2\0"), TextError::Twice("a".to_owned()));
        assert_eq!(of(&[b'x'; MAX_TEXT + 1]), TextError::TooLong);
        let many: String = (0..=MAX_PAIRS).map(|n| format!("k{n}=\0")).collect();
        assert_eq!(of(many.as_bytes()), TextError::TooMany);
        let long = [b"k=".as_slice(), &[b'x'; MAX_VALUE + 1]].concat();
        assert_eq!(of(&long), TextError::Value("k".to_owned()));
    }
}
