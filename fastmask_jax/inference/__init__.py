"""From images to proposals: the one flow that the library, the commands, evaluation and the page use."""
