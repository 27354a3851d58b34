"""From images to proposals: the flow shared by the library, the commands, evaluation and the page."""
