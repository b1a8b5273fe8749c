//! What a caller may do: roles of the form `<scope>:<role>`.

/// Whose objects a grant is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The cluster's own, and every project's.
    System,
    /// One project's.
    Project(String),
}

impl Scope {
    /// Reads the scope part of a key id or a role.
    #[must_use]
    pub fn parse(text: &str) -> Scope {
        if text == "system" { Scope::System } else { Scope::Project(text.into()) }
    }
}

/// How far a grant goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// May look.
    Viewer,
    /// May look and change.
    Admin,
}

/// What one caller may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants(Vec<(Scope, Level)>);

impl Grants {
    /// Reads the roles of a token whose key belongs to `key_scope`. Roles that we don't know grant nothing, and a
    /// project's key can't grant what lies outside the project.
    #[must_use]
    pub fn from_roles(key_scope: &Scope, roles: &[String]) -> Grants {
        let known = roles.iter().filter_map(|role| {
            let (scope, name) = role.rsplit_once(':')?;
            let scope = Scope::parse(scope);
            let level = match (&scope, name) {
                (Scope::System, "cluster-admin" | "admin") => Level::Admin,
                (Scope::System, "cluster-viewer" | "viewer") => Level::Viewer,
                (Scope::Project(_), "admin" | "tenant-admin") => Level::Admin,
                (Scope::Project(_), "viewer" | "tenant-viewer") => Level::Viewer,
                _ => return None,
            };
            let within = *key_scope == Scope::System || *key_scope == scope;
            within.then_some((scope, level))
        });
        Grants(known.collect())
    }

    /// True if the caller may do anything at all.
    #[must_use]
    pub fn any(&self) -> bool {
        !self.0.is_empty()
    }

    /// True if the caller has at least this level for the cluster's own objects.
    #[must_use]
    pub fn cluster(&self, level: Level) -> bool {
        self.0.iter().any(|(scope, held)| *scope == Scope::System && *held >= level)
    }

    /// True if the caller has at least this level for the project's objects.
    #[must_use]
    pub fn project(&self, project: &str, level: Level) -> bool {
        self.0.iter().any(|(scope, held)| {
            let covers = match scope {
                Scope::System => true,
                Scope::Project(name) => name == project,
            };
            covers && *held >= level
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grants(key: &str, roles: &[&str]) -> Grants {
        let roles: Vec<String> = roles.iter().map(|r| (*r).into()).collect();
        Grants::from_roles(&Scope::parse(key), &roles)
    }

    #[test]
    fn a_system_admin_may_do_all() {
        let g = grants("system", &["system:cluster-admin"]);
        assert!(g.cluster(Level::Admin) && g.project("p", Level::Admin));
        let g = grants("system", &["system:cluster-viewer"]);
        assert!(g.project("p", Level::Viewer) && !g.project("p", Level::Admin));
    }

    #[test]
    fn a_tenant_sees_its_project_only() {
        let g = grants("p1", &["p1:admin", "p2:admin", "system:cluster-admin"]);
        assert!(g.project("p1", Level::Admin));
        assert!(!g.project("p2", Level::Viewer) && !g.cluster(Level::Viewer));
        assert!(!grants("p1", &["p1:emperor", "nonsense"]).any());
    }
}
