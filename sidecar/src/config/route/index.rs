//! The entries of `matches` by path, so that finding one does not take longer the more there are.
//!
//! What is found is the first in order of precedence that fits, as if they were tried one after
//! another, which only the tests do. Exact paths are found by hash; patterns and prefixes in a tree
//! of segments, each node found by hash; regular expressions are few ([`regex::MAX_IN_ROUTE`]) and
//! matched all at once. Entries with one and the same path are tried one after another: they differ
//! in what else they ask.
//!
//! What a request costs is bounded by the route, whatever its path: nothing longer than the longest
//! text that could be found is hashed, and the tree is not left.

use std::collections::HashMap;

use http::Method;
use http::request::Parts;
use smallvec::SmallVec;
use wire::path::Segment;
use wire::regex;

use super::matching::{Conditions, Match, Path};
use super::query::{Names, Query};

/// All entries of a route.
#[derive(Debug)]
pub(super) struct Index {
    /// By precedence.
    entries: Vec<(Conditions, Found)>,
    exact: Texts<Places>,
    tree: Tree,
    regexes: regex::Set,
    /// Of the expressions of `regexes`.
    by_regex: Vec<usize>,
    names: Names,
}

/// The entry that governs a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The place of its rule.
    pub rule: usize,
    /// How many bytes of the path are its prefix; 0 for one that compares something else.
    pub prefix: usize,
}

/// Places in [`Index::entries`], ascending.
type Places = SmallVec<[usize; 1]>;

/// What is found by a text of a request.
#[derive(Debug)]
struct Texts<T> {
    by_text: HashMap<Box<str>, T>,
    longest: usize,
}

/// Paths by segment; the first node is the root.
#[derive(Debug)]
struct Tree(Vec<Node>);

#[derive(Debug, Default)]
struct Node {
    literals: Texts<usize>,
    variable: Option<usize>,
    /// Entries of paths that end here.
    whole: Places,
    /// Entries of paths that begin like this.
    beginning: Places,
}

/// The entries that a path leads to, node by node.
#[derive(Debug, Default)]
struct Reached<'a> {
    whole: SmallVec<[&'a Places; 4]>,
    /// Deeper ones later.
    beginning: SmallVec<[&'a Places; 16]>,
}

// === build ===

impl Index {
    /// Orders and indexes entries, each with the place of its rule, in the order written.
    pub(super) fn build(mut matches: Vec<(Match, usize)>, names: Names) -> Result<Self, String> {
        // Stable: what is equal stays in the order written.
        matches.sort_by_cached_key(|(entry, _)| entry.precedence());
        let mut entries = Vec::with_capacity(matches.len());
        let mut exact: Texts<Places> = Texts::default();
        let mut tree = Tree(vec![Node::default()]);
        let mut expressions = Vec::new();
        let mut by_regex = Vec::new();
        for (place, (Match { path, conditions }, rule)) in matches.into_iter().enumerate() {
            let prefix = path.prefix();
            match path {
                Path::Exact(path) => exact.at(path).push(place),
                Path::Whole(segments) => tree.at(segments).whole.push(place),
                Path::Beginning(segments) => tree.at(segments).beginning.push(place),
                Path::Regex(expression) => {
                    expressions.push(expression);
                    by_regex.push(place);
                }
            }
            entries.push((conditions, Found { rule, prefix }));
        }
        let of_values = entries.iter().map(|(entry, _)| entry.expressions());
        let count = expressions.len() + of_values.sum::<usize>();
        if count > regex::MAX_IN_ROUTE {
            return Err(regex::too_many(count));
        }
        Ok(Self {
            entries,
            exact,
            tree,
            regexes: regex::Set::new(&expressions)?,
            by_regex,
            names,
        })
    }
}

impl<T: Default> Texts<T> {
    fn at(&mut self, text: String) -> &mut T {
        self.longest = self.longest.max(text.len());
        self.by_text.entry(text.into()).or_default()
    }
}

impl Tree {
    /// The node of a path, made if it is not there.
    fn at(&mut self, segments: Vec<Segment>) -> &mut Node {
        let mut at = 0;
        for segment in segments {
            let new = self.0.len();
            let node = &mut self.0[at];
            at = match segment {
                Segment::Variable(_) => *node.variable.get_or_insert(new),
                Segment::Literal(text) => {
                    let child = node.literals.at(text);
                    // The root is nobody's child.
                    if *child == 0 {
                        *child = new;
                    }
                    *child
                }
            };
            if at == new {
                self.0.push(Node::default());
            }
        }
        &mut self.0[at]
    }
}

impl<T> Default for Texts<T> {
    fn default() -> Self {
        Self {
            by_text: HashMap::new(),
            longest: 0,
        }
    }
}

// === request ===

impl Index {
    /// The entry that comes first among those that a request fits.
    pub(super) fn find(&self, head: &Parts) -> Option<Found> {
        self.find_by(head, |method, _| {
            method.is_none_or(|one| *one == head.method)
        })
    }

    /// As [`Index::find`], where `takes` says of the method of an entry, if it has one, and of its
    /// rule whether they fit.
    pub(super) fn find_by(
        &self,
        head: &Parts,
        takes: impl Fn(Option<&Method>, Found) -> bool,
    ) -> Option<Found> {
        let path = head.uri.path();
        let query = Query::new(head.uri.query(), &self.names);
        let fits = |place: &usize| {
            let (conditions, found) = &self.entries[*place];
            takes(conditions.method(), *found) && conditions.hold(head, &query)
        };

        // In order of precedence: no entry of a later kind comes before one of an earlier kind.
        let exact = self.exact.get(path).into_iter().flatten();
        let exact = exact.copied().find(fits);
        let entry = exact.or_else(|| {
            let reached = self.tree.follow(path);
            first(reached.whole.iter().copied(), fits)
                .or_else(|| {
                    let fitting = self.regexes.fitting(path.as_bytes());
                    fitting.map(|number| self.by_regex[number]).find(fits)
                })
                .or_else(|| first(reached.beginning.iter().rev().copied(), fits))
        });
        entry.map(|entry| self.entries[entry].1)
    }
}

/// The first place of all that fits.
fn first<'a>(
    reached: impl Iterator<Item = &'a Places>,
    fits: impl Fn(&usize) -> bool,
) -> Option<usize> {
    reached.fold(None, |best: Option<usize>, places| {
        let earlier = places.iter().copied();
        let mut earlier = earlier.take_while(|place| best.is_none_or(|best| *place < best));
        earlier.find(&fits).or(best)
    })
}

impl<T> Texts<T> {
    fn get(&self, text: &str) -> Option<&T> {
        if text.len() > self.longest {
            return None;
        }
        self.by_text.get(text)
    }
}

impl Tree {
    /// All nodes that a path leads to.
    fn follow(&self, path: &str) -> Reached<'_> {
        let mut reached = Reached::default();
        let mut ways: SmallVec<[(usize, &str); 8]> = SmallVec::new();
        ways.push((0, path));
        while let Some((node, rest)) = ways.pop() {
            let node = &self.0[node];
            if !node.beginning.is_empty() {
                reached.beginning.push(&node.beginning);
            }
            let Some(rest) = rest.strip_prefix('/') else {
                if rest.is_empty() && !node.whole.is_empty() {
                    reached.whole.push(&node.whole);
                }
                continue;
            };
            let (segment, rest) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            if let Some(child) = node.variable
                && !segment.is_empty()
            {
                ways.push((child, rest));
            }
            if let Some(child) = node.literals.get(segment) {
                ways.push((*child, rest));
            }
        }
        reached
    }
}

#[cfg(test)]
mod tests;
