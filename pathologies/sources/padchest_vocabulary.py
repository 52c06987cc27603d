"""The labels that PadChest publishes (release 01.02.19), in lower case; facts, listed so that a strange one is seen.

Called by `sources_padchest`. Which of them mean a finding here stands in the finding's own file.
"""

KNOWN_LABELS = frozenset(
    label.strip()
    for label in """
copd signs; chilaiditi sign; nsg tube; abnormal foreign body; abscess; adenopathy; air bronchogram; air fluid
level; air trapping; alveolar pattern; aortic aneurysm; aortic atheromatosis; aortic button enlargement; aortic
elongation; aortic endoprosthesis; apical pleural thickening; artificial aortic heart valve; artificial heart
valve; artificial mitral heart valve; asbestosis signs; ascendent aortic elongation; atelectasis; atelectasis
basal; atypical pneumonia; axial hyperostosis; azygoesophageal recess shift; azygos lobe; blastic bone lesion;
bone cement; bone metastasis; breast mass; bronchiectasis; bronchovascular markings; bullas; calcified
adenopathy; calcified densities; calcified fibroadenoma; calcified granuloma; calcified mediastinal adenopathy;
calcified pleural plaques; calcified pleural thickening; callus rib fracture; cardiomegaly; catheter;
cavitation; central vascular redistribution; central venous catheter; central venous catheter via jugular vein;
central venous catheter via subclavian vein; central venous catheter via umbilical vein; cervical rib; chest
drain tube; chronic changes; clavicle fracture; consolidation; costochondral junction hypertrophy; costophrenic
angle blunting; cyst; dai; descendent aortic elongation; dextrocardia; diaphragmatic eventration; double j
stent; dual chamber device; electrical device; emphysema; empyema; end on vessel; endoprosthesis; endotracheal
tube; esophagic dilatation; exclude; external foreign body; fibrotic band; fissure thickening; flattened
diaphragm; fracture; gastrostomy tube; goiter; granuloma; ground glass pattern; gynecomastia; heart
insufficiency; heart valve calcified; hemidiaphragm elevation; hiatal hernia; hilar congestion; hilar
enlargement; humeral fracture; humeral prosthesis; hydropneumothorax; hyperinflated lung; hypoexpansion;
hypoexpansion basal; increased density; infiltrates; interstitial pattern; kerley lines; kyphosis; laminar
atelectasis; lepidic adenocarcinoma; lipomatosis; lobar atelectasis; loculated fissural effusion; loculated
pleural effusion; lung metastasis; lung vascular paucity; lymphangitis carcinomatosa; lytic bone lesion; major
fissure thickening; mammary prosthesis; mass; mastectomy; mediastinal enlargement; mediastinal mass; mediastinal
shift; mediastinic lipomatosis; metal; miliary opacities; minor fissure thickening; multiple nodules;
nephrostomy tube; nipple shadow; nodule; non axial articular degenerative changes; normal; obesity; osteopenia;
osteoporosis; osteosynthesis material; pacemaker; pectum carinatum; pectum excavatum; pericardial effusion;
pleural effusion; pleural mass; pleural plaques; pleural thickening; pneumomediastinum; pneumonia;
pneumoperitoneo; pneumothorax; post radiotherapy changes; prosthesis; pseudonodule; pulmonary artery
enlargement; pulmonary artery hypertension; pulmonary edema; pulmonary fibrosis; pulmonary hypertension;
pulmonary mass; pulmonary venous hypertension; reservoir central venous catheter; respiratory distress;
reticular interstitial pattern; reticulonodular interstitial pattern; rib fracture; right sided aortic arch;
round atelectasis; sclerotic bone lesion; scoliosis; segmental atelectasis; single chamber device; soft tissue
mass; sternoclavicular junction hypertrophy; sternotomy; subacromial space narrowing; subcutaneous emphysema;
suboptimal study; superior mediastinal enlargement; supra aortic elongation; surgery; surgery breast; surgery
heart; surgery humeral; surgery lung; surgery neck; suture material; thoracic cage deformation; total
atelectasis; tracheal shift; tracheostomy tube; tuberculosis; tuberculosis sequelae; unchanged; vascular hilar
enlargement; vascular redistribution; ventriculoperitoneal drain tube; vertebral anterior compression; vertebral
compression; vertebral degenerative changes; vertebral fracture; volume loss
""".replace("\n", " ").split(";")
)
