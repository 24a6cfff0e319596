//! Authorization: who may do what, decided by the destinations' sidecars.

#![allow(
    unreachable_pub,
    clippy::duplicated_attributes,
    reason = "KubeSchema derives from a private copy of each type"
)]

use kube::KubeSchema;
use kube::core::Rule as Cel;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{HeaderMatch, Method, PathMatch};

/// Who may do what. Whatever no rule allows is refused.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Cel::new(
    "!has(self.rules) || self.rules.size() == 0 || self.rules.exists(r, r.action == 'Allow')"
).message("rules that only deny let nobody in: add one with action Allow, or write rules: [] to close"))]
pub struct Authorization {
    /// `Enforce` refuses what is not allowed (403). `Audit` lets it pass and counts and logs it as
    /// what would have been refused.
    #[serde(default)]
    pub mode: Mode,

    /// Of which decisions the destination's sidecar writes a line into its access log, whatever is
    /// selected there: none, those against a request, or all.
    #[serde(default)]
    pub audit: Audit,

    /// Sets of callers with names, for the rules.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(validation = Cel::new("self.all(r, self.exists_one(o, o.name == r.name))")
        .message("two roles have the same name"))]
    pub roles: Vec<Role>,

    /// What is allowed and what is denied. One that denies wins over all that allow; their order
    /// makes no difference.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Cel::new(
        "self.all(r, !has(r.name) || self.exists_one(o, has(o.name) && o.name == r.name))"
    ).message("two rules have the same name"))]
    pub rules: Vec<AuthorizationRule>,
}

/// Whether decisions are carried out.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// They are.
    #[default]
    Enforce,
    /// They are told only.
    Audit,
}

/// Which decisions are written down.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Audit {
    /// None, beyond what the access log has anyway.
    #[default]
    None,
    /// Those against a request.
    Denied,
    /// All.
    All,
}

/// A set of callers with a name.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Role {
    /// The role's name.
    #[schemars(length(min = 1, max = 63), pattern(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,

    /// Who has the role: whoever fits one of these. A role has no roles.
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(validation = Cel::new("self.all(m, !has(m.roles))")
        .message("a role's members have no roles: write who they are"))]
    pub members: Vec<Principals>,
}

/// One entry of `rules`. What it names must all hold, and one entry of each list.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthorizationRule {
    /// The rule's name in metrics and logs; `rule-<index>` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), pattern(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    #[x_kube(validation = Cel::new("!self.matches('^rule-[0-9]+$')")
        .message("names of the form rule-<number> are given to rules without a name"))]
    pub name: Option<String>,

    /// `Allow` or `Deny`.
    #[serde(default)]
    pub action: Action,

    /// Who calls; everybody when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principals: Option<Principals>,

    /// The methods; any when absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 8))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub methods: Vec<Method>,

    /// The paths, as the application gets them, after a route's `rewrite`; any when absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16))]
    pub paths: Vec<PathMatch>,

    /// Headers that the request must have, all of them. What a caller writes into a header proves
    /// nothing about it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 8))]
    #[x_kube(validation = Cel::new(
        "self.all(h, self.exists_one(o, o.name.lowerAscii() == h.name.lowerAscii()))"
    ).message("a header is named twice; one match can hold one value of a header"))]
    pub headers: Vec<HeaderMatch>,
}

/// What a rule does.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Lets requests in.
    #[default]
    Allow,
    /// Refuses them, whatever else lets them in.
    Deny,
}

/// Who calls. What it names must all hold, and one entry of each list, but all of `scopes`.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Cel::new(
    "has(self.serviceAccounts) || has(self.namespaces) || has(self.spiffeIDs) || \
     has(self.consumers) || has(self.plans) || has(self.jwtClaims) || has(self.scopes) || \
     has(self.roles)"
).message("principals names nobody: leave it out to mean everybody"))]
pub struct Principals {
    /// Service accounts of the calling pods, as their certificates prove: `web` in the object's
    /// namespace, or `shop/web`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(min = 1, max = 32),
        inner(
            length(min = 1, max = 317),
            pattern(r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?/)?[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
        )
    )]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub service_accounts: Vec<String>,

    /// Namespaces of the calling pods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(min = 1, max = 32),
        inner(length(min = 1, max = 63), pattern(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))
    )]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub namespaces: Vec<String>,

    /// Identities of the calling pods in full: `spiffe://cluster.local/ns/shop/sa/web`.
    #[serde(default, rename = "spiffeIDs", skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(min = 1, max = 32),
        inner(
            length(min = 1, max = 2048),
            pattern(r"^spiffe://[-a-z0-9._]+/ns/[-a-z0-9]+/sa/[-a-z0-9.]+$")
        )
    )]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub spiffe_ids: Vec<String>,

    /// Consumers, as their API keys prove.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(min = 1, max = 32),
        inner(
            length(min = 1, max = 63),
            pattern(r"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$")
        )
    )]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub consumers: Vec<String>,

    /// Plans of consumers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(min = 1, max = 16),
        inner(
            length(min = 1, max = 63),
            pattern(r"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$")
        )
    )]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub plans: Vec<String>,

    /// Claims that the token has, all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 8))]
    pub jwt_claims: Vec<ClaimMatch>,

    /// Scopes that the token has, all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(min = 1, max = 16),
        inner(length(min = 1, max = 256), pattern(r"^[!#-\[\]-~]+$"))
    )]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub scopes: Vec<String>,

    /// Roles of this object's `authorization`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(min = 1, max = 16),
        inner(length(min = 1, max = 63), pattern(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))
    )]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub roles: Vec<String>,
}

/// A claim of a token, and what it must be.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimMatch {
    /// The claim's name, or a JSON pointer (RFC 6901) when it begins with `/`, such as
    /// `/realm_access/roles`.
    #[schemars(length(min = 1, max = 256), pattern(r"^[!-~]+$"))]
    pub name: String,

    /// The claim is one of these, or a list that contains one of them. Numbers and truth values are
    /// compared as JSON writes them.
    #[schemars(length(min = 1, max = 32), inner(length(min = 1, max = 512)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub values: Vec<String>,
}
