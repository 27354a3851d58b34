"""The commands: `fastmask NAME`, a module of that name each. Nothing heavy is imported before arguments are checked."""
