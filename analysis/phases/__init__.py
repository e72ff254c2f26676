"""Label the cells of tables with phases of learning: rules, labels and their confidence. Pure."""
