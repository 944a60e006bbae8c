//! A filter's words and signs.

use super::Operator;

/// A word or sign.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    Word(String),
    Quoted(String),
    Operator(Operator),
    Dot,
    Open,
    Close,
}

impl Token {
    pub(super) fn is_word(&self, word: &str) -> bool {
        matches!(self, Self::Word(w) if w == word)
    }
}

/// Words and signs, each with the byte it begins at.
pub(super) fn lex(text: &str) -> Result<Vec<(usize, Token)>, String> {
    let mut tokens = Vec::new();
    let mut rest = text.char_indices().peekable();
    while let Some((at, c)) = rest.next() {
        let mut followed_by_equals = || rest.next_if(|(_, c)| *c == '=').is_some();
        let token = match c {
            c if c.is_whitespace() => continue,
            '(' => Token::Open,
            ')' => Token::Close,
            '.' => Token::Dot,
            ':' => Token::Operator(Operator::Has),
            '=' => Token::Operator(Operator::Equal),
            '!' if followed_by_equals() => Token::Operator(Operator::NotEqual),
            '<' if followed_by_equals() => Token::Operator(Operator::AtMost),
            '<' => Token::Operator(Operator::Less),
            '>' if followed_by_equals() => Token::Operator(Operator::AtLeast),
            '>' => Token::Operator(Operator::Greater),
            '"' => Token::Quoted(quoted(&mut rest).ok_or_else(|| unclosed(at))?),
            c if in_word(c) => {
                let mut word = String::from(c);
                while let Some((_, c)) = rest.next_if(|(_, c)| in_word(*c)) {
                    word.push(c);
                }
                Token::Word(word)
            }
            other => return Err(format!("at byte {at}: {other:?} has no meaning here")),
        };
        tokens.push((at, token));
    }
    Ok(tokens)
}

fn unclosed(at: usize) -> String {
    format!("at byte {at}: the quotation does not end")
}

fn in_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '/' | '*' | '+' | '@')
}

fn quoted(rest: &mut impl Iterator<Item = (usize, char)>) -> Option<String> {
    let mut text = String::new();
    loop {
        match rest.next()?.1 {
            '"' => return Some(text),
            '\\' => text.push(rest.next()?.1),
            c => text.push(c),
        }
    }
}
