//! Filters over objects: a part of the language of AIP-160.
//!
//! ```text
//! filter     = and { "OR" and }
//! and        = not { "AND" not }
//! not        = [ "NOT" ] ( "(" filter ")" | comparison )
//! comparison = path ( "=" | "!=" | "<" | "<=" | ">" | ">=" | ":" ) value
//! path       = segment { "." segment }
//! segment, value = word | "quoted, with \" and \\"
//! ```
//!
//! A path that passes a list means any of its elements. `:` is true where a text contains the value,
//! and `path:*` where there is anything at all; `!=` is true where `=` is not. Numbers are compared as
//! numbers, everything else as text; what does not compare is false.

mod lex;

use crate::violation::Violation;
use lex::{Token, lex};

/// Longest filter, in bytes.
pub const MAX_LENGTH: usize = 2048;
/// Most comparisons.
pub const MAX_COMPARISONS: usize = 64;
/// Deepest nesting of parentheses and NOTs.
const MAX_DEPTH: usize = 16;

/// A value in an object.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scalar<'a> {
    /// A text.
    Text(&'a str),
    /// A number.
    Number(f64),
    /// A truth value; as text it is `true` or `false`.
    Bool(bool),
}

/// What a filter looks into.
pub trait Record {
    /// Shows every value at `path`, those in every element of lists on the way. An object or list at
    /// the end is shown as an empty text.
    fn show(&self, path: &[String], see: &mut dyn FnMut(Scalar<'_>));
}

/// How a comparison compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// Equal.
    Equal,
    /// Not equal.
    NotEqual,
    /// Less.
    Less,
    /// Less or equal.
    AtMost,
    /// Greater.
    Greater,
    /// Greater or equal.
    AtLeast,
    /// Contains; with `*`, is there.
    Has,
}

/// A filter that can be asked.
#[derive(Debug, Clone, PartialEq)]
pub enum Filter {
    /// Matches everything: the empty filter.
    Everything,
    /// All of them.
    All(Vec<Filter>),
    /// Any of them.
    Any(Vec<Filter>),
    /// The opposite.
    Not(Box<Filter>),
    /// A comparison of what is at a path with a value.
    Compare(Vec<String>, Operator, String),
}

impl Filter {
    /// Reads a filter; `field` is what it is called in faults.
    ///
    /// # Errors
    /// What is wrong and where; no other fault can be told behind a place that is not understood.
    pub fn parse(field: &str, text: &str) -> Result<Self, Violation> {
        let fault = |message: String| Violation::new(field, text, "Filter", message);
        if text.len() > MAX_LENGTH {
            let message = format!("is {} bytes long; at most {MAX_LENGTH} are taken", text.len());
            return Err(Violation::new(field, "", "Filter", message));
        }
        let tokens = lex(text).map_err(fault)?;
        if tokens.is_empty() {
            return Ok(Self::Everything);
        }
        let mut parser = Parser { tokens: &tokens, at: 0, comparisons: 0, end: text.len() };
        let filter = parser.any(0).map_err(fault)?;
        match parser.tokens.get(parser.at) {
            None => Ok(filter),
            Some((at, _)) => Err(fault(format!("at byte {at}: AND, OR or the end is expected"))),
        }
    }

    /// Whether the object matches.
    pub fn matches(&self, record: &dyn Record) -> bool {
        match self {
            Self::Everything => true,
            Self::All(all) => all.iter().all(|f| f.matches(record)),
            Self::Any(any) => any.iter().any(|f| f.matches(record)),
            Self::Not(not) => !not.matches(record),
            Self::Compare(path, Operator::NotEqual, value) => {
                !compare(record, path, Operator::Equal, value)
            }
            Self::Compare(path, operator, value) => compare(record, path, *operator, value),
        }
    }

    /// The same filter over other paths.
    ///
    /// # Errors
    /// Everything that `change` says of any path.
    pub fn with_paths<E>(
        self,
        change: &mut dyn FnMut(Vec<String>) -> Result<Vec<String>, E>,
    ) -> Result<Self, Vec<E>> {
        let mut faults = Vec::new();
        let filter = self.rename(change, &mut faults);
        if faults.is_empty() { Ok(filter) } else { Err(faults) }
    }

    fn rename<E>(
        self,
        change: &mut dyn FnMut(Vec<String>) -> Result<Vec<String>, E>,
        faults: &mut Vec<E>,
    ) -> Self {
        let mut all = |list: Vec<Self>, faults: &mut Vec<E>| {
            list.into_iter().map(|f| f.rename(change, faults)).collect()
        };
        match self {
            Self::Everything => Self::Everything,
            Self::All(list) => Self::All(all(list, faults)),
            Self::Any(list) => Self::Any(all(list, faults)),
            Self::Not(not) => Self::Not(Box::new(not.rename(change, faults))),
            Self::Compare(path, operator, value) => match change(path) {
                Ok(path) => Self::Compare(path, operator, value),
                Err(fault) => {
                    faults.push(fault);
                    Self::Everything
                }
            },
        }
    }
}

fn compare(record: &dyn Record, path: &[String], operator: Operator, value: &str) -> bool {
    let number: Option<f64> = value.parse().ok();
    let mut found = false;
    record.show(path, &mut |scalar| found |= holds(scalar, operator, value, number));
    found
}

fn holds(scalar: Scalar<'_>, operator: Operator, value: &str, number: Option<f64>) -> bool {
    use std::cmp::Ordering::{Equal, Greater, Less};
    let text = match scalar {
        Scalar::Text(text) => text,
        Scalar::Bool(true) => "true",
        Scalar::Bool(false) => "false",
        Scalar::Number(_) => "",
    };
    let order = match scalar {
        Scalar::Number(have) => number.and_then(|n| have.partial_cmp(&n)),
        Scalar::Text(_) | Scalar::Bool(_) => Some(text.cmp(value)),
    };
    match operator {
        Operator::Has if value == "*" => true,
        Operator::Has if matches!(scalar, Scalar::Text(_)) => text.contains(value),
        Operator::Equal | Operator::Has => order == Some(Equal),
        Operator::NotEqual => order != Some(Equal),
        Operator::Less => order == Some(Less),
        Operator::AtMost => matches!(order, Some(Less | Equal)),
        Operator::Greater => order == Some(Greater),
        Operator::AtLeast => matches!(order, Some(Greater | Equal)),
    }
}

struct Parser<'a> {
    tokens: &'a [(usize, Token)],
    at: usize,
    comparisons: usize,
    end: usize,
}

impl Parser<'_> {
    fn any(&mut self, depth: usize) -> Result<Filter, String> {
        let mut list = vec![self.all(depth)?];
        while self.take(|t| t.is_word("OR")) {
            list.push(self.all(depth)?);
        }
        Ok(one_or(list, Filter::Any))
    }

    fn all(&mut self, depth: usize) -> Result<Filter, String> {
        let mut list = vec![self.not(depth)?];
        while self.take(|t| t.is_word("AND")) {
            list.push(self.not(depth)?);
        }
        Ok(one_or(list, Filter::All))
    }

    fn not(&mut self, depth: usize) -> Result<Filter, String> {
        if depth > MAX_DEPTH {
            return Err(self.expected("less than 16 levels of parentheses"));
        }
        if self.take(|t| t.is_word("NOT")) {
            return Ok(Filter::Not(Box::new(self.not(depth + 1)?)));
        }
        if self.take(|t| *t == Token::Open) {
            let inner = self.any(depth + 1)?;
            return if self.take(|t| *t == Token::Close) {
                Ok(inner)
            } else {
                Err(self.expected("')'"))
            };
        }
        self.comparison()
    }

    fn comparison(&mut self) -> Result<Filter, String> {
        self.comparisons += 1;
        if self.comparisons > MAX_COMPARISONS {
            return Err(self.expected("at most 64 comparisons"));
        }
        let mut path = vec![self.text("a field's path")?];
        while self.take(|t| *t == Token::Dot) {
            path.push(self.text("a field's name")?);
        }
        let operator = match self.tokens.get(self.at) {
            Some((_, Token::Operator(operator))) => *operator,
            _ => return Err(self.expected("one of = != < <= > >= :")),
        };
        self.at += 1;
        let mut value = self.text("a value")?;
        // Numbers with a fraction, and names with dots, need no quotes.
        while self.take(|t| *t == Token::Dot) {
            value.push('.');
            value.push_str(&self.text("the rest of the value")?);
        }
        Ok(Filter::Compare(path, operator, value))
    }

    fn text(&mut self, what: &str) -> Result<String, String> {
        match self.tokens.get(self.at) {
            Some((_, Token::Word(text) | Token::Quoted(text))) => {
                self.at += 1;
                Ok(text.clone())
            }
            _ => Err(self.expected(what)),
        }
    }

    fn take(&mut self, is: impl Fn(&Token) -> bool) -> bool {
        let there = self.tokens.get(self.at).is_some_and(|(_, t)| is(t));
        self.at += usize::from(there);
        there
    }

    fn expected(&self, what: &str) -> String {
        let at = self.tokens.get(self.at).map_or(self.end, |(at, _)| *at);
        format!("at byte {at}: {what} is expected")
    }
}

fn one_or(mut list: Vec<Filter>, many: fn(Vec<Filter>) -> Filter) -> Filter {
    match list.pop() {
        Some(only) if list.is_empty() => only,
        Some(last) => {
            list.push(last);
            many(list)
        }
        None => Filter::Everything,
    }
}

#[cfg(test)]
mod tests;
